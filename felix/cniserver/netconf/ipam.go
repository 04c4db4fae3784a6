package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// IPAM says which addresses to assign.
type IPAM struct {
	// Delegate is the type of the plugin that assigns the addresses; with one, all
	// else is empty. It is empty for felix itself.
	Delegate       string
	IPv4, IPv6     bool
	Pools4, Pools6 []string // names or CIDRs; empty for any
}

// underAnother reads what concerns calico-ipam under another main plugin. What else
// stands in the outer object is that plugin's, whatever it is.
func underAnother(raw []byte) (d document, unread []string, err error) {
	var outer struct {
		CNIVersion string          `json:"cniVersion"`
		Name       string          `json:"name"`
		NodeName   string          `json:"nodename"`
		DNS        types.DNS       `json:"dns"`
		IPAM       json.RawMessage `json:"ipam"`
		Args       json.RawMessage `json:"args"`
		Runtime    struct {
			IPs      []string        `json:"ips"`
			IPRanges json.RawMessage `json:"ipRanges"`
		} `json:"runtimeConfig"`
	}
	if err := json.Unmarshal(raw, &outer); err != nil {
		return d, nil, decodingError(err)
	}
	d = document{
		CNIVersion: outer.CNIVersion, Name: outer.Name, NodeName: outer.NodeName, DNS: outer.DNS, IPAM: outer.IPAM, Args: outer.Args,
		Runtime: runtimeConfig{IPs: outer.Runtime.IPs, IPRanges: outer.Runtime.IPRanges},
	}
	unread, err = checkKeys("ipam", ownIPAM(d.IPAM), ipamKeys())
	return d, unread, err
}

// ownIPAM is an ipam object of calico-ipam; those of others have keys of their own.
func ownIPAM(raw json.RawMessage) json.RawMessage {
	if kind := typeOf(raw); kind != "" && kind != IPAMCalico {
		return nil
	}
	return raw
}

func parseIPAM(plugin string, raw json.RawMessage) (IPAM, error) {
	var in struct {
		Type   string          `json:"type"`
		IPv4   json.RawMessage `json:"assign_ipv4"`
		IPv6   json.RawMessage `json:"assign_ipv6"`
		Pools4 []string        `json:"ipv4_pools"`
		Pools6 []string        `json:"ipv6_pools"`
	}
	if len(raw) == 0 {
		return IPAM{}, &Error{Key: "ipam", Reason: `missing; add "ipam": {"type": "calico-ipam"}`}
	}
	kind := typeOf(raw)
	if kind != "" && kind != IPAMCalico {
		return delegateIPAM(plugin, kind)
	}
	if err := decode("ipam", raw, &in); err != nil {
		return IPAM{}, err
	}
	if in.Type == "" {
		return IPAM{}, &Error{Key: "ipam.type", Reason: "missing; want calico-ipam"}
	}
	out := IPAM{Pools4: in.Pools4, Pools6: in.Pools6}
	var err error
	if out.IPv4, err = flag("ipam.assign_ipv4", in.IPv4, true); err != nil {
		return IPAM{}, err
	}
	if out.IPv6, err = flag("ipam.assign_ipv6", in.IPv6, false); err != nil {
		return IPAM{}, err
	}
	if !out.IPv4 && !out.IPv6 {
		return IPAM{}, &Error{Key: "ipam.assign_ipv4", Reason: "no address family is left; set assign_ipv4 or assign_ipv6 to \"true\""}
	}
	if err := checkPools("ipam.ipv4_pools", out.Pools4, netip.Addr.Is4); err != nil {
		return IPAM{}, err
	}
	return out, checkPools("ipam.ipv6_pools", out.Pools6, netip.Addr.Is6)
}

// checkPools refuses entries that can be no pool: names are checked where the
// pools are known.
func checkPools(key string, pools []string, family func(netip.Addr) bool) error {
	for _, pool := range pools {
		if pool == "" {
			return &Error{Key: key, Reason: "has an empty entry; want the name or the CIDR of a pool"}
		}
		if !strings.Contains(pool, "/") {
			continue
		}
		prefix, err := netip.ParsePrefix(pool)
		switch {
		case err != nil:
			return &Error{Key: key, Reason: strconv.Quote(pool) + " is not a CIDR"}
		case prefix != prefix.Masked():
			return &Error{Key: key, Reason: fmt.Sprintf("%q has host bits set; did you mean %s?", pool, prefix.Masked())}
		case !family(prefix.Addr()):
			return &Error{Key: key, Reason: strconv.Quote(pool) + " is of the other address family"}
		}
	}
	return nil
}
