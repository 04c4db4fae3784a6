// Package netconf reads the network configuration and the arguments of a CNI
// call, once, into types that can't be wrong. It is strict: a key that is misspelt, or
// asks for something that is not done, is an error naming the key. Other keys that it
// does not know are kept for whom they may be meant for, and named.
package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"

	"tortie/internal/api"
)

// Error says which key of a configuration is wrong, and why.
type Error struct {
	Key    string // path in the document: "ipam.type"; empty for the document itself
	Reason string
	// Unsupported: the configuration is right, but asks for what this version doesn't do.
	Unsupported bool
}

// Error is one line for the operator.
func (e *Error) Error() string {
	if e.Key == "" {
		return "network configuration: " + e.Reason
	}
	return fmt.Sprintf("network configuration: key %q: %s", e.Key, e.Reason)
}

// IPAMCalico is the IPAM type served here; others are plugins that felix runs.
const IPAMCalico = "calico-ipam"

// Conf is a checked network configuration.
type Conf struct {
	CNIVersion string // never empty
	Name       string
	// NodeName is by the key NodeKey; empty: whatever felix's is.
	NodeName, NodeKey string
	IPAM              IPAM
	// PolicyK8s: profiles are those of the Kubernetes namespace and service account
	// instead of one per network.
	PolicyK8s         bool
	MTU               int // 0: the node's choice
	NumQueues         int // 0: the kernel's choice
	AllowIPForwarding bool
	DNS               types.DNS
	// Addrs and MAC are what the runtime asks for by the capabilities ips and mac.
	Addrs []netip.Addr
	MAC   string
	// NoIPAM: pods may ask for addresses that nobody assigns.
	NoIPAM bool
	// FloatingIPs: pods may ask for floating addresses.
	FloatingIPs bool
	// Annotations are the pod's, where the runtime hands them over.
	Annotations map[string]string
	// HostPorts are ports of the node that are to lead to the pod.
	HostPorts []HostPort
	// OwnBandwidth: the plugin has the capability bandwidth; else another plugin of the
	// list may have it.
	OwnBandwidth bool
	// Limits are those of the pod's traffic, complete; nil for none. They are never
	// changed.
	Limits *api.QoSControls
	// PrevResult is what the runtime says the attachment looks like; nil for none.
	PrevResult *types100.Result
	// Unread are the keys that nobody here knows, as paths in the document. They are kept for
	// whom they may be meant for: an IPAM plugin of others gets them.
	Unread []string
}

// document is the configuration as JSON has it.
type document struct {
	CNIVersion string          `json:"cniVersion"`
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	NodeName   string          `json:"nodename"`
	Hostname   string          `json:"hostname"`
	MTU        int             `json:"mtu"`
	NumQueues  int             `json:"num_queues"`
	Datastore  string          `json:"datastore_type"`
	Socket     string          `json:"felix_socket"`
	DefaultGW  *bool           `json:"include_default_routes"`
	IPAM       json.RawMessage `json:"ipam"`
	Policy     json.RawMessage `json:"policy"`
	Container  json.RawMessage `json:"container_settings"`
	Features   json.RawMessage `json:"feature_control"`
	DNS        types.DNS       `json:"dns"`
	Runtime    runtimeConfig   `json:"runtimeConfig"`
	Args       json.RawMessage `json:"args"`
	PrevResult json.RawMessage `json:"prevResult"`
	// Capabilities are what the operator lets the runtime ask for.
	Capabilities map[string]bool `json:"capabilities"`
}

// runtimeConfig is what a runtime fills in for the capabilities of the plugin.
type runtimeConfig struct {
	DNS       *runtimeDNS     `json:"dns"`
	IPs       []string        `json:"ips"`
	MAC       string          `json:"mac"`
	IPRanges  json.RawMessage `json:"ipRanges"`
	HostPorts []portMapping   `json:"portMappings"`
	Bandwidth struct {
		IngressRate  int64 `json:"ingressRate"`
		IngressBurst int64 `json:"ingressBurst"`
		EgressRate   int64 `json:"egressRate"`
		EgressBurst  int64 `json:"egressBurst"`
	} `json:"bandwidth"`
	// Annotations come with containerd and CRI-O.
	Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
}

// runtimeDNS is the capability dns, whose keys have other names than those of a result.
type runtimeDNS struct {
	Servers  []string `json:"servers"`
	Domain   string   `json:"domain"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
}

// Identity is the part of a configuration that DEL needs. It is read leniently:
// what was never attached under a wrong configuration is deleted under it too.
type Identity struct {
	Name       string          `json:"name"`
	CNIVersion string          `json:"cniVersion"`
	NodeName   string          `json:"nodename"`
	IPAM       json.RawMessage `json:"ipam"`
}

// Type is that of the IPAM plugin; empty where the configuration has none.
func (i Identity) Type() string { return typeOf(i.IPAM) }

// Delegate is the type of the IPAM plugin of others that assigned the addresses; empty
// for felix itself.
func (i Identity) Delegate() string {
	if kind := typeOf(i.IPAM); kind != IPAMCalico && CanAssign(kind) {
		return kind
	}
	return ""
}

// ParseIdentity reads the network's name alone.
func ParseIdentity(raw []byte) (Identity, error) {
	var id Identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return id, decodingError(err)
	}
	if id.Name == "" {
		return id, &Error{Key: "name", Reason: "missing; give the network a name"}
	}
	return id, nil
}

// Parse reads and checks the whole configuration of the plugin called by the
// name plugin, "calico" or "calico-ipam".
func Parse(plugin string, raw []byte) (Conf, error) {
	_, c, err := parse(plugin, raw)
	return c, err
}

func parse(plugin string, raw []byte) (doc document, c Conf, err error) {
	read := ofMain
	if plugin == IPAMCalico {
		read = underAnother
	}
	doc, unread, err := read(raw)
	if err != nil {
		return doc, Conf{}, err
	}
	c, err = doc.conf(plugin)
	c.Unread = unread
	return doc, c, err
}

// ofMain reads the configuration of the main plugin.
func ofMain(raw []byte) (d document, unread []string, err error) {
	var whole map[string]json.RawMessage
	if err := decode("", raw, &whole); err != nil {
		return d, nil, err
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, nil, decodingError(err)
	}
	objects := []struct {
		where string
		raw   json.RawMessage
		known map[string]support
	}{
		{"", raw, mainKeys()},
		{"policy", d.Policy, policyKeys()},
		{"container_settings", d.Container, containerKeys()},
		{"feature_control", d.Features, featureKeys()},
		{"ipam", ownIPAM(d.IPAM), ipamKeys()},
	}
	for _, o := range objects {
		more, err := checkKeys(o.where, o.raw, o.known)
		if err != nil {
			return d, nil, err
		}
		unread = slices.Concat(unread, more)
	}
	return d, unread, d.check(whole)
}

// check refuses values that this version does not serve.
func (d document) check(whole map[string]json.RawMessage) error {
	switch {
	case d.Name == "":
		return &Error{Key: "name", Reason: "missing; give the network a name"}
	case d.Datastore != "" && d.Datastore != "etcdv3":
		return unsupported("datastore_type", whole["datastore_type"], "use etcdv3")
	case d.MTU < 0 || d.MTU > 65535:
		return &Error{Key: "mtu", Reason: strconv.Itoa(d.MTU) + " is out of range; want 68 to 65535, or leave it out"}
	case d.MTU != 0 && d.MTU < 68:
		return &Error{Key: "mtu", Reason: strconv.Itoa(d.MTU) + " is less than IPv4's minimum of 68"}
	case d.NumQueues < 0 || d.NumQueues > 4096:
		return &Error{Key: "num_queues", Reason: strconv.Itoa(d.NumQueues) + " is out of range; want 1 to 4096, or leave it out"}
	case d.DefaultGW != nil && !*d.DefaultGW:
		return unsupported("include_default_routes", whole["include_default_routes"], "remove it")
	}
	return checkRuntimes(whole)
}

// checkRuntimes refuses what can't be of the keys that the runtime reads, and nobody here.
func checkRuntimes(whole map[string]json.RawMessage) error {
	for _, key := range []string{"disableCheck", "disableGC", "loadOnlyInlinedPlugins", "ipMasq"} {
		if _, err := flag(key, whole[key], false); err != nil {
			return err
		}
	}
	var versions []string
	if raw := whole["cniVersions"]; !isNull(raw) {
		if err := decode("cniVersions", raw, &versions); err != nil {
			return err
		}
	}
	var plugins []json.RawMessage
	if raw := whole["plugins"]; !isNull(raw) {
		return decode("plugins", raw, &plugins)
	}
	return nil
}

// conf reads the nested objects.
func (d document) conf(plugin string) (Conf, error) {
	c := Conf{
		CNIVersion: d.CNIVersion, Name: d.Name, MTU: d.MTU, NumQueues: d.NumQueues,
		DNS: d.DNS,
	}
	c.NodeName, c.NodeKey = d.nodeName()
	if c.CNIVersion == "" {
		c.CNIVersion = "0.2.0" // as the specification says of a configuration without one
	}
	if c.Name == "" {
		return Conf{}, &Error{Key: "name", Reason: "missing; give the network a name"}
	}
	if utils.ValidateNetworkName(c.Name) != nil {
		// With a slash, say, its addresses could be assigned under no handle.
		return Conf{}, &Error{Key: "name", Reason: strconv.Quote(c.Name) + ": want letters, digits, and then also _ . -"}
	}
	var err error
	if c.IPAM, err = parseIPAM(plugin, d.IPAM); err != nil {
		return Conf{}, err
	}
	if plugin == IPAMCalico {
		return c, d.addresses(&c) // the rest is the main plugin's
	}
	if c.PolicyK8s, err = parsePolicy(d.Policy); err != nil {
		return Conf{}, err
	}
	if c.AllowIPForwarding, err = parseContainer(d.Container); err != nil {
		return Conf{}, err
	}
	if c.NoIPAM, c.FloatingIPs, err = parseFeatures(d.Features); err != nil {
		return Conf{}, err
	}
	if err := d.ofContainer(&c); err != nil {
		return Conf{}, err
	}
	c.OwnBandwidth = d.Capabilities["bandwidth"]
	c.PrevResult, err = parsePrevResult(c.CNIVersion, d.PrevResult)
	return c, err
}

// ofContainer reads what the runtime says of one container, all of it.
func (d document) ofContainer(c *Conf) (err error) {
	c.DNS = d.DNS
	if err := checkServers("dns.nameservers", d.DNS.Nameservers); err != nil {
		return err
	}
	if dns := d.Runtime.DNS; dns != nil {
		if err := checkServers("runtimeConfig.dns.servers", dns.Servers); err != nil {
			return err
		}
		c.DNS = types.DNS{Nameservers: dns.Servers, Domain: dns.Domain, Search: dns.Searches, Options: dns.Options}
	}
	c.Addrs, c.MAC = nil, ""
	if err := d.wishes(c); err != nil {
		return err
	}
	if c.HostPorts, err = hostPorts(d.Runtime.HostPorts); err != nil {
		return err
	}
	c.Limits, err = d.bandwidth()
	return err
}

func checkServers(key string, servers []string) error {
	for _, server := range servers {
		if _, err := netip.ParseAddr(server); err != nil {
			return &Error{Key: key, Reason: strconv.Quote(server) + " is no address; want one such as 192.0.2.53"}
		}
	}
	return nil
}

// nodeName is the node's name that the configuration demands, and by which key: hostname
// is the older one, and counts where there is no other.
func (d document) nodeName() (name, key string) {
	if d.NodeName == "" && d.Hostname != "" {
		return d.Hostname, "hostname"
	}
	return d.NodeName, "nodename"
}

// wishes reads what the runtime asks for one container.
func (d document) wishes(c *Conf) (err error) {
	c.Annotations = d.Runtime.Annotations
	_, argsMAC, err := conventional(d.Args)
	if err != nil {
		return err
	}
	mac, where := d.Runtime.MAC, "runtimeConfig."
	if mac == "" {
		mac, where = argsMAC, "args.cni."
	}
	if mac != "" {
		if c.MAC, err = parseMAC(mac); err != nil {
			return &Error{Key: where + "mac", Reason: err.Error()}
		}
	}
	if c.IPAM.Delegate != "" {
		return nil // ips and ipRanges are that plugin's
	}
	return d.addresses(c)
}

// addresses reads the addresses that the runtime asks for: by its capability, else by
// args, which CNI's conventions want to go before CNI_ARGS.
func (d document) addresses(c *Conf) (err error) {
	if !isNull(d.Runtime.IPRanges) {
		return unsupported("runtimeConfig.ipRanges", d.Runtime.IPRanges, "calico-ipam has IP pools (ipam.ipv4_pools): remove the ipRanges capability, or take an IPAM plugin that has it, such as host-local")
	}
	argsIPs, _, err := conventional(d.Args)
	if err != nil {
		return err
	}
	ips, where := d.Runtime.IPs, "runtimeConfig."
	if len(ips) == 0 {
		ips, where = argsIPs, "args.cni."
	}
	if c.Addrs, err = parseAddrs(ips); err != nil {
		return &Error{Key: where + "ips", Reason: err.Error()}
	}
	return nil
}

// conventional are the addresses and the MAC address that args.cni asks for, as CNI's
// conventions have it. What else stands in args is nobody's here.
func conventional(args json.RawMessage) (ips []string, mac string, err error) {
	if isNull(args) {
		return nil, "", nil
	}
	var in struct {
		CNI struct {
			IPs []string `json:"ips"`
			MAC string   `json:"mac"`
		} `json:"cni"`
	}
	err = decode("args", args, &in)
	return in.CNI.IPs, in.CNI.MAC, err
}

func parsePolicy(raw json.RawMessage) (k8s bool, err error) {
	if isNull(raw) {
		return false, nil
	}
	var in struct {
		Type string `json:"type"`
	}
	if err := decode("policy", raw, &in); err != nil {
		return false, err
	}
	if in.Type != "" && in.Type != "k8s" {
		return false, &Error{Key: "policy.type", Reason: strconv.Quote(in.Type) + " is not known; want k8s, or leave it out"}
	}
	return in.Type == "k8s", nil
}

func parseContainer(raw json.RawMessage) (forwarding bool, err error) {
	if isNull(raw) {
		return false, nil
	}
	var in struct {
		Forwarding bool `json:"allow_ip_forwarding"`
	}
	err = decode("container_settings", raw, &in)
	return in.Forwarding, err
}

func parseFeatures(raw json.RawMessage) (noIPAM, floatingIPs bool, err error) {
	if isNull(raw) {
		return false, false, nil
	}
	var in struct {
		NoIPAM      bool `json:"ip_addrs_no_ipam"`
		FloatingIPs bool `json:"floating_ips"`
	}
	err = decode("feature_control", raw, &in)
	return in.NoIPAM, in.FloatingIPs, err
}
