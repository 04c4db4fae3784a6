package client

import (
	"slices"
	"strconv"

	"tortie/internal/control/cniwire"
)

// newestVersion is the CNI version that answers what names none.
const newestVersion = "1.1.0"

// versions are the CNI versions served, from the oldest to the newest. A test holds
// them against the CNI library's, with which felix forms the results.
func versions() []string {
	return []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", newestVersion}
}

// firstVersion is the CNI version that brought a command.
func firstVersion(command string) string {
	switch command {
	case "CHECK":
		return "0.4.0"
	case "GC", "STATUS":
		return newestVersion
	}
	return "0.1.0"
}

// checkVersion refuses a configuration of a CNI version that is not served, or has
// no such command. A configuration without one is of the first.
func checkVersion(command, cniVersion string) *cniwire.Error {
	if cniVersion == "" {
		cniVersion = "0.1.0"
	}
	is, first := slices.Index(versions(), cniVersion), firstVersion(command)
	if is < 0 {
		return &cniwire.Error{
			Code: cniwire.CodeIncompatibleVersion,
			Msg: "incompatible CNI versions: the network configuration's cniVersion is " + strconv.Quote(cniVersion) +
				", the plugin serves " + join(versions()),
		}
	}
	if is < slices.Index(versions(), first) {
		return &cniwire.Error{
			Code: cniwire.CodeIncompatibleVersion,
			Msg:  "incompatible CNI versions: the network configuration's cniVersion is " + cniVersion + ", but " + command + " is of " + first + " and later",
		}
	}
	return nil
}
