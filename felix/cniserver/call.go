package cniserver

import (
	"cmp"
	"fmt"
	"strings"

	"tortie/felix/calc"
	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/control/cniwire"
)

// The plugin's two names.
const (
	pluginCalico = "calico"
	pluginIPAM   = "calico-ipam"
)

// call is one CNI call, read and checked.
type call struct {
	command string
	plugin  string
	netns   string
	// anyNetns: the runtime allows the namespace that felix and the plugin run in.
	anyNetns bool
	id       journal.ID
	conf     netconf.Conf // for DEL its name and version alone
	args     netconf.Args
	valid    []netconf.ValidAttachment // GC's list
	raw      []byte                    // the configuration as it came
	delegate *journal.IPAM             // nil where felix assigns the addresses
	ipamType string                    // who does; empty where the configuration of a DEL doesn't say
	// endpoint and hostIf are empty for calico-ipam.
	endpoint calc.EndpointID
	hostIf   string
}

// lockKey serialises what must not run at once: all calls about one endpoint,
// whichever sandbox of the pod they come from.
func (c call) lockKey() string { return lockKey(c.plugin, c.id, c.endpoint) }

// lockKeyOf is the lockKey of the calls about an entry.
func lockKeyOf(e journal.Entry) string { return lockKey(e.Plugin, e.ID, endpointOf(e)) }

func lockKey(plugin string, id journal.ID, endpoint calc.EndpointID) string {
	if plugin == pluginIPAM {
		return plugin + " " + id.String()
	}
	return endpoint.String()
}

// newCall reads a request. DEL is read leniently, so that nothing stays behind
// because its configuration is no longer accepted.
func newCall(node string, configs *netconf.Reader, req cniwire.Request) (call, error) {
	c := call{command: req.Command, plugin: req.Plugin, netns: req.Netns, anyNetns: overrides(req.NetnsOverride), raw: req.Config}
	if err := checkRequest(req); err != nil {
		return c, err
	}
	var err error
	if c.args, err = netconf.ParseArgs(req.Args); err != nil && req.Command != "DEL" {
		return c, err
	}
	if req.Command == "DEL" {
		var id netconf.Identity
		if id, err = netconf.ParseIdentity(req.Config); err != nil {
			return c, err
		}
		c.conf.Name, c.conf.CNIVersion, c.conf.IPAM.Delegate, c.ipamType = id.Name, id.CNIVersion, id.Delegate(), id.Type()
	} else if c.conf, err = configs.Parse(req.Plugin, req.Config); err != nil {
		return c, err
	} else {
		c.ipamType = cmp.Or(c.conf.IPAM.Delegate, netconf.IPAMCalico)
	}
	if c.delegate, err = delegateOf(c.conf.IPAM.Delegate, req); err != nil {
		return c, err
	}
	if req.Command == "GC" {
		if c.valid, err = netconf.ParseAttachments(req.Config); err != nil {
			return c, err
		}
	}
	if req.Command == "CHECK" && c.plugin == pluginCalico && c.conf.PrevResult == nil {
		return c, &netconf.Error{Key: "prevResult", Reason: "missing; CHECK compares with what ADD answered, so the runtime must give that"}
	}
	if n := c.conf.NodeName; n != "" && n != node {
		return c, &netconf.Error{Key: c.conf.NodeKey, Reason: fmt.Sprintf("%q, but felix here runs as node %q; remove the key or correct felix's NODENAME", n, node)}
	}
	c.id = journal.ID{Network: c.conf.Name, ContainerID: req.ContainerID, IfName: req.IfName}
	if c.plugin == pluginCalico && c.id.ContainerID != "" {
		c.endpoint = endpointID(node, c.args, c.id)
		c.hostIf = hostInterface(c.args, c.id)
	}
	if req.Command == "DEL" && c.notOwnNamespace() != nil {
		c.netns = "" // the container's is gone, and its path another's by now
	}
	return c, nil
}

// checkRequest refuses what no plugin of this version sends.
func checkRequest(req cniwire.Request) error {
	switch {
	case req.Version != cniwire.Version:
		return &cniwire.Error{
			Code: cniwire.CodeInternal,
			Msg:  fmt.Sprintf("the CNI plugin speaks version %d of felix's protocol, felix %d; install both from one release", req.Version, cniwire.Version),
		}
	case req.Plugin != pluginCalico && req.Plugin != pluginIPAM:
		return invalidEnvironment("unknown plugin name %q; want calico or calico-ipam", req.Plugin)
	}
	switch req.Command {
	case "GC", "STATUS":
		return nil
	case "ADD", "CHECK", "DEL":
	default:
		return invalidEnvironment("CNI_COMMAND %q is not known", req.Command)
	}
	if !netconf.CanBeContainer(req.ContainerID) {
		return invalidEnvironment("CNI_CONTAINERID %q is missing or can't be a container's", req.ContainerID)
	}
	if req.Command == "DEL" { // of what ADD refuses nothing is there, and that is no failure
		if req.IfName == "" || strings.ContainsAny(req.IfName, "/\x00") {
			return invalidEnvironment("CNI_IFNAME %q is missing or can't be an interface's", req.IfName)
		}
		return nil
	}
	if !netconf.CanBePods(req.IfName) {
		return invalidEnvironment("CNI_IFNAME %q is missing or can't be a pod's interface's; want one such as eth0", req.IfName)
	}
	if req.Netns == "" && req.Plugin == pluginCalico {
		return invalidEnvironment("CNI_NETNS is missing; %s needs the container's network namespace", req.Command)
	}
	return nil
}
