package client

import (
	"errors"
	"slices"
	"strconv"
	"syscall"

	"tortie/cni-plugin/loopback"
	"tortie/internal/control/cniwire"
	"tortie/internal/rawjson"
)

// loopback carries out a call of CNI's plugin loopback, which runtimes make three
// times for each pod: felix is not needed for it.
func (c *call) loopback(req cniwire.Request) *cniwire.Error {
	switch {
	case req.Command == "GC", req.Command == "STATUS", req.Command == "DEL" && req.Netns == "":
		return nil
	case !overrides(req.NetnsOverride) && loopback.Same(req.Netns):
		return &cniwire.Error{Code: cniwire.CodeInvalidNetns, Msg: "CNI_NETNS " + req.Netns + " is the node's own network namespace; want the pod's"}
	}
	netns, err := loopback.Enter(req.Netns)
	switch {
	case err != nil && req.Command == "DEL" && noNamespace(err):
		return nil
	case err != nil:
		return &cniwire.Error{Code: cniwire.CodeInvalidNetns, Msg: "enter the network namespace " + strconv.Quote(req.Netns) + ": " + err.Error()}
	}
	switch req.Command {
	case "DEL":
		err = netns.Set(false)
	case "CHECK":
		return checkLoopback(netns)
	default:
		err = c.addLoopback(netns, req.Netns)
	}
	if err != nil {
		return &cniwire.Error{Code: cniwire.CodeInternal, Msg: req.Command + " of " + loopback.Name + " in " + req.Netns + ": " + err.Error()}
	}
	return nil
}

// overrides reports whether the runtime allows the plugin's own namespace.
func overrides(value string) bool {
	yes, err := strconv.ParseBool(value)
	return err == nil && yes
}

// noNamespace: what was to be taken down is gone already.
func noNamespace(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL)
}

func checkLoopback(netns loopback.Namespace) *cniwire.Error {
	up, err := netns.Up()
	switch {
	case err != nil:
		return &cniwire.Error{Code: cniwire.CodeInternal, Msg: "CHECK of " + loopback.Name + ": " + err.Error()}
	case !up:
		return &cniwire.Error{Code: cniwire.CodeInternal, Msg: "CHECK: " + loopback.Name + " is down in the pod's network namespace; recreate the pod"}
	}
	return nil
}

// addLoopback brings lo up. In a chain the result is what came before.
func (c *call) addLoopback(netns loopback.Namespace, path string) error {
	if err := netns.Set(true); err != nil {
		return err
	}
	if len(c.conf.prevResult) > 0 {
		c.result = c.conf.prevResult
		return nil
	}
	addresses, err := netns.Addresses()
	if err != nil {
		return err
	}
	c.result = loopbackResult(c.conf.cniVersion, path, addresses)
	return nil
}

// loopbackResult is the result in the format of the CNI version.
func loopbackResult(cniVersion, netns string, a loopback.Addresses) []byte {
	if cniVersion == "" {
		cniVersion = versions()[0]
	}
	since := slices.Index(versions(), cniVersion)
	out := rawjson.AppendString([]byte(`{"cniVersion":`), cniVersion)
	if since < slices.Index(versions(), "0.3.0") {
		return append(appendFamilies(out, a), `,"dns":{}}`...)
	}
	out = append(out, `,"interfaces":[{"name":"`+loopback.Name+`","mac":"00:00:00:00:00:00","sandbox":`...)
	out = append(rawjson.AppendString(out, netns), `}],"ips":[`...)
	out = appendIPs(out, a, since < slices.Index(versions(), "1.0.0"))
	return append(out, `],"dns":{}}`...)
}

// appendFamilies names one address of each family, as before 0.3.0.
func appendFamilies(out []byte, a loopback.Addresses) []byte {
	if a.V4 != "" {
		out = append(out, `,"ip4":{"ip":"`+a.V4+`"}`...)
	}
	if a.V6 != "" {
		out = append(out, `,"ip6":{"ip":"`+a.V6+`"}`...)
	}
	return out
}

// appendIPs lists the addresses, with the family's name before 1.0.0.
func appendIPs(out []byte, a loopback.Addresses, named bool) []byte {
	first := len(out)
	for _, ip := range [...]struct{ version, cidr string }{{"4", a.V4}, {"6", a.V6}} {
		if ip.cidr == "" {
			continue
		}
		if len(out) > first {
			out = append(out, ',')
		}
		out = append(out, '{')
		if named {
			out = append(out, `"version":"`+ip.version+`",`...)
		}
		out = append(out, `"interface":0,"address":"`+ip.cidr+`"}`...)
	}
	return out
}
