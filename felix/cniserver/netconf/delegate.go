package netconf

import (
	"encoding/json"
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
func delegateIPAM(plugin, kind string, raw json.RawMessage) (IPAM, error) {
	switch {
	case plugin == IPAMCalico:
		return IPAM{}, &Error{Key: "ipam.type", Reason: strconv.Quote(kind) + " is not this plugin; use calico-ipam"}
	case strings.ContainsAny(kind, "/\x00"):
		return IPAM{}, &Error{Key: "ipam.type", Reason: strconv.Quote(kind) + " can't be a plugin; want its name, such as host-local"}
	case strings.Contains(string(raw), `"usePodCidr`):
		return IPAM{}, &Error{Key: "ipam.subnet", Reason: "usePodCidr is not supported by this version; write the CIDR of this node's pods"}
	}
	return IPAM{Delegate: kind}, nil
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
