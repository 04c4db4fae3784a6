package netconf

import (
	"fmt"
	"net/netip"
	"strings"
)

// Args is the content of CNI_ARGS that matters here.
type Args struct {
	// K8sNamespace and K8sPod are both set when the container is a pod.
	K8sNamespace, K8sPod string
	// K8sUID is the pod's UID as its runtime knows it; empty where it isn't told.
	K8sUID string
	// IP is the address that is asked for; invalid for any.
	IP netip.Addr
}

// IsPod reports whether the arguments name a Kubernetes pod.
func (a Args) IsPod() bool { return a.K8sPod != "" }

// ArgsError says what is wrong with CNI_ARGS.
type ArgsError struct{ Reason string }

// Error is one line for the operator.
func (e *ArgsError) Error() string { return "CNI_ARGS: " + e.Reason }

// ParseArgs reads CNI_ARGS ("K=V;K=V"). Unknown keys are an error unless
// IgnoreUnknown is set, as the CNI convention says; keys of Kubernetes and of
// test tools are known and ignored.
func ParseArgs(s string) (Args, error) {
	var a Args
	var unknown []string
	ignoreUnknown := false
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return Args{}, &ArgsError{fmt.Sprintf("%q: want KEY=VALUE", pair)}
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			a.K8sNamespace = value
		case "K8S_POD_NAME":
			a.K8sPod = value
		case "K8S_POD_UID":
			a.K8sUID = value
		case "K8S_POD_INFRA_CONTAINER_ID", "CNI_TEST_NAMESPACE":
		case "IgnoreUnknown":
			switch value {
			case "1", "true", "True", "TRUE":
				ignoreUnknown = true
			}
		case "IP":
			var err error
			if a.IP, err = parseIP(value); err != nil {
				return Args{}, err
			}
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignoreUnknown {
		return Args{}, &ArgsError{fmt.Sprintf("unknown key %q; remove it or add IgnoreUnknown=1", unknown[0])}
	}
	if err := a.check(); err != nil {
		return Args{}, err
	}
	return a, nil
}

func parseIP(value string) (netip.Addr, error) {
	addrs, err := parseAddrs([]string{value})
	if err != nil {
		return netip.Addr{}, &ArgsError{"IP: " + err.Error()}
	}
	return addrs[0], nil
}

// check refuses names that no pod can have.
func (a Args) check() error {
	if (a.K8sNamespace == "") != (a.K8sPod == "") {
		return &ArgsError{"K8S_POD_NAMESPACE and K8S_POD_NAME: one without the other; give both"}
	}
	if a.IsPod() {
		if !isDNSLabel(a.K8sNamespace) {
			return &ArgsError{fmt.Sprintf("K8S_POD_NAMESPACE: %q can't be a namespace's name: want at most 63 of a-z, 0-9 and -, a letter or digit first and last", a.K8sNamespace)}
		}
		if !isDNSSubdomain(a.K8sPod) {
			return &ArgsError{fmt.Sprintf("K8S_POD_NAME: %q can't be a pod's name: want at most 253 of a-z, 0-9, - and ., a letter or digit before and after each dot", a.K8sPod)}
		}
	}
	return nil
}

// isDNSLabel reports whether Kubernetes takes a name for a namespace's (RFC 1123,
// section 2.1, in lower case).
func isDNSLabel(s string) bool { return len(s) <= 63 && isDNSSubdomain(s) && !strings.Contains(s, ".") }

// isDNSSubdomain reports whether Kubernetes takes a name for a pod's: labels of any
// length, separated by dots.
func isDNSSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}
