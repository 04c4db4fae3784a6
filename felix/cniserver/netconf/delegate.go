package netconf

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// typeOf is the type of an ipam object; empty when there is none to be read.
func typeOf(raw json.RawMessage) string {
	var in struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(raw, &in) != nil {
		return ""
	}
	return in.Type
}

// delegateIPAM is an ipam object that is for a plugin of others: its keys are that
// one's.
func delegateIPAM(plugin, kind string) (IPAM, error) {
	switch {
	case ownProgram(kind):
		return IPAM{}, &Error{Key: "ipam.type", Reason: strconv.Quote(kind) + " is no IPAM plugin; use calico-ipam"}
	case plugin == IPAMCalico:
		return IPAM{}, &Error{Key: "ipam.type", Reason: strconv.Quote(kind) + " is not this plugin; use calico-ipam"}
	case strings.ContainsAny(kind, "/\x00"):
		return IPAM{}, &Error{Key: "ipam.type", Reason: strconv.Quote(kind) + " can't be a plugin; want its name, such as host-local"}
	}
	return IPAM{Delegate: kind}, nil
}

// ownProgram reports whether a name is that of a program of this project which assigns no
// addresses. Run as an IPAM plugin, calico would call felix, which runs it again.
func ownProgram(kind string) bool {
	return slices.Contains([]string{"calico", "felix", "install-cni", "loopback", "bgpd", "calicoctl"}, kind)
}

// CanAssign reports whether a program of that name may have assigned addresses.
func CanAssign(kind string) bool { return !ownProgram(kind) }

// The words that stand for the CIDRs which Kubernetes gives to the node, as upstream
// has them.
const (
	podCIDR4 = "usePodCidr"
	podCIDR6 = "usePodCidrIPv6"
)

// WithPodCIDRs puts the node's CIDRs in the place of those words, wherever an ipam object
// names a subnet.
func WithPodCIDRs(raw []byte, known func() []netip.Prefix) ([]byte, error) {
	if !bytes.Contains(raw, []byte(podCIDR4)) {
		return raw, nil
	}
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(raw, &conf); err != nil {
		return nil, decodingError(err)
	}
	var ipam any
	numbers := json.NewDecoder(bytes.NewReader(conf["ipam"]))
	numbers.UseNumber()
	if err := numbers.Decode(&ipam); err != nil {
		return nil, decodingError(err)
	}
	var cidrs []netip.Prefix
	if known != nil {
		cidrs = known()
	}
	if err := replaceSubnets(ipam, cidrs); err != nil {
		return nil, err
	}
	var err error
	if conf["ipam"], err = json.Marshal(ipam); err != nil {
		return nil, err
	}
	return json.Marshal(conf)
}

// NoPodCIDRError says that Kubernetes has not told of the CIDR that is asked for.
type NoPodCIDRError struct{ Word string }

// Error is one line for the operator.
func (e *NoPodCIDRError) Error() string {
	return "network configuration: key \"ipam.subnet\": " + e.Word + ": Kubernetes has told felix of no such podCIDR of this node; look at kubectl get node -o yaml (spec.podCIDRs), or write the CIDR"
}

func replaceSubnets(v any, cidrs []netip.Prefix) error {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			if err := replaceSubnets(one, cidrs); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, one := range v {
			word, _ := one.(string)
			if key != "subnet" || !standsForCIDR(word) {
				if err := replaceSubnets(one, cidrs); err != nil {
					return err
				}
				continue
			}
			cidr, err := meant(word, cidrs)
			if err != nil {
				return err
			}
			v[key] = cidr.String()
		}
	}
	return nil
}

func standsForCIDR(word string) bool { return word == podCIDR4 || word == podCIDR6 }

// meant is the CIDR that a word stands for.
func meant(word string, cidrs []netip.Prefix) (netip.Prefix, error) {
	for _, p := range cidrs {
		if p.Addr().Is4() == (word == podCIDR4) {
			return p, nil
		}
	}
	return netip.Prefix{}, &NoPodCIDRError{word}
}

// ForDelegate is the configuration as an IPAM plugin of others gets it, and as it is
// remembered: without the result, and without what gives access to Kubernetes.
func ForDelegate(raw []byte) (json.RawMessage, error) {
	var conf map[string]json.RawMessage
	if err := json.Unmarshal(raw, &conf); err != nil {
		return nil, decodingError(err)
	}
	for _, key := range []string{"prevResult", "policy", "kubernetes"} {
		delete(conf, key)
	}
	return json.Marshal(conf)
}
