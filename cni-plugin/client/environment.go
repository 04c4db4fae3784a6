package client

import (
	"strconv"

	"tortie/internal/control/cniwire"
)

// checkEnvironment refuses what CNI forbids (spec 1.1.0, section 2). felix checks
// once more, and more strictly, what it uses.
func checkEnvironment(r cniwire.Request) *cniwire.Error {
	switch r.Command {
	case "ADD", "CHECK", "DEL", "GC", "STATUS":
	default:
		return wrongEnvironment("unknown CNI_COMMAND: " + strconv.Quote(r.Command) + "; want ADD, DEL, CHECK, GC, STATUS or VERSION")
	}
	attachment := r.Command != "GC" && r.Command != "STATUS"
	var missing []string
	for _, v := range []struct {
		name, value string
		needed      bool
	}{
		{"CNI_CONTAINERID", r.ContainerID, attachment},
		{"CNI_NETNS", r.Netns, attachment && r.Command != "DEL"},
		{"CNI_IFNAME", r.IfName, attachment},
		{"CNI_PATH", r.Path, true},
	} {
		if v.needed && v.value == "" {
			missing = append(missing, v.name)
		}
	}
	switch {
	case len(missing) > 0:
		return wrongEnvironment("required environment variables are missing: " + r.Command + " needs " + join(missing))
	case attachment && !isCNIName(r.ContainerID):
		return wrongEnvironment("CNI_CONTAINERID: " + strconv.Quote(r.ContainerID) + ": " + nameWanted)
	case attachment && !canBeInterface(r.IfName):
		return wrongEnvironment("CNI_IFNAME: " + strconv.Quote(r.IfName) + ": want the name of an interface, at most 15 bytes without space, / and :")
	}
	return nil
}

const nameWanted = "want letters, digits, and then also _ . -"

// isCNIName reports whether CNI allows a container or a network to be called so.
func isCNIName(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}

// canBeInterface knows space in ASCII alone; felix knows all of it.
func canBeInterface(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 15 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c == '/' || c == ':' || c == ' ' || '\t' <= c && c <= '\r' {
			return false
		}
	}
	return true
}

func wrongEnvironment(msg string) *cniwire.Error {
	return &cniwire.Error{Code: cniwire.CodeInvalidEnvironment, Msg: msg}
}
