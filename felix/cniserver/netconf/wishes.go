package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Wishes are what one pod asks for: in its annotations, by capabilities of the
// runtime, or in CNI_ARGS. What is not asked for is empty.
type Wishes struct {
	// Addrs are the addresses to assign instead of any; with NoIPAM they are assigned
	// by nobody.
	Addrs  []netip.Addr
	NoIPAM bool
	MAC    string
	// Pools4 and Pools6 replace those of the configuration.
	Pools4, Pools6 []string
	// Families are those wanted, of 4 and 6, instead of the configuration's.
	Families []int
	// Sources are prefixes that the pod may send from besides its own addresses.
	Sources []netip.Prefix
	// Floating are addresses that lead to the pod's own of the same IP version.
	Floating []netip.Addr
}

// annotationPrefix is that of upstream's annotations of a pod.
const annotationPrefix = "cni.projectcalico.org/"

// AnnotationError says which annotation of a pod is wrong, and why.
type AnnotationError struct{ Name, Reason string }

// Error is one line for the operator.
func (e *AnnotationError) Error() string {
	return fmt.Sprintf("annotation %s%s of the pod: %s", annotationPrefix, e.Name, e.Reason)
}

// ParseAnnotations reads what a pod's annotations ask for. Those that are written for
// others to read are passed over, and so is what nobody knows: annotations have no
// schema.
func ParseAnnotations(all map[string]string) (Wishes, error) {
	var w Wishes
	readers := map[string]func(string) error{
		"ipv4pools":             func(v string) error { return poolsOf(v, netip.Addr.Is4, &w.Pools4) },
		"ipv6pools":             func(v string) error { return poolsOf(v, netip.Addr.Is6, &w.Pools6) },
		"ipFamilies":            w.readFamilies,
		"ipAddrs":               w.readAddrs,
		"ipAddrsNoIpam":         w.readAddrs,
		"hwAddr":                w.readMAC,
		"allowedSourcePrefixes": w.readSources,
		"floatingIPs":           w.readFloating,
	}
	for _, name := range []string{"ipv4pools", "ipv6pools", "ipFamilies", "ipAddrs", "ipAddrsNoIpam", "hwAddr", "allowedSourcePrefixes", "floatingIPs"} {
		value, ok := all[annotationPrefix+name]
		if !ok {
			continue
		}
		if name == "ipAddrsNoIpam" && w.Addrs != nil {
			return Wishes{}, &AnnotationError{name, "there is ipAddrs as well; give one of the two"}
		}
		if err := readers[name](value); err != nil {
			return Wishes{}, &AnnotationError{name, err.Error()}
		}
		w.NoIPAM = w.NoIPAM || name == "ipAddrsNoIpam"
	}
	if w.Addrs != nil && (w.Pools4 != nil || w.Pools6 != nil) {
		return Wishes{}, &AnnotationError{"ipAddrs", "there are ipv4pools or ipv6pools as well; give addresses or pools"}
	}
	return w, nil
}

func (w *Wishes) readSources(value string) error {
	list, err := textList(value, `["192.0.2.0/24"]`)
	if err != nil {
		return err
	}
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return fmt.Errorf("%q is no prefix; want one such as 192.0.2.0/24", text)
		}
		w.Sources = append(w.Sources, p.Masked())
	}
	return nil
}

func (w *Wishes) readFloating(value string) error {
	list, err := textList(value, `["10.65.0.7"]`)
	if err != nil {
		return err
	}
	for _, text := range list {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return fmt.Errorf("%q is no address; want one such as 10.65.0.7", text)
		}
		w.Floating = append(w.Floating, addr)
	}
	return nil
}

// textList reads a JSON list of strings, as upstream wants it.
func textList(value, example string) ([]string, error) {
	var list []string
	if err := json.Unmarshal([]byte(value), &list); err != nil || len(list) == 0 {
		return nil, fmt.Errorf("%q: want a list in JSON such as %s", value, example)
	}
	return list, nil
}

func poolsOf(value string, family func(netip.Addr) bool, into *[]string) error {
	list, err := textList(value, `["pool-a"]`)
	if err != nil {
		return err
	}
	if wrong, ok := checkPools("", list, family).(*Error); ok { //nolint:errorlint // its own, just made
		return errors.New(wrong.Reason)
	}
	*into = list
	return nil
}

func (w *Wishes) readFamilies(value string) error {
	list, err := textList(value, `["IPv4", "IPv6"]`)
	if err != nil {
		return err
	}
	for _, text := range list {
		version, ok := map[string]int{"IPv4": 4, "IPv6": 6}[text]
		if !ok {
			return fmt.Errorf("%q is no IP version; want IPv4 or IPv6", text)
		}
		w.Families = append(w.Families, version)
	}
	return nil
}

func (w *Wishes) readAddrs(value string) error {
	list, err := textList(value, `["10.65.0.7"]`)
	if err != nil {
		return err
	}
	w.Addrs, err = parseAddrs(list)
	return err
}

// parseAddrs reads addresses that a pod is to have: one of each IP version at most, as
// upstream does. A length behind one is what other plugins need; here each is alone in
// its subnet.
func parseAddrs(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, text := range list {
		bare, _, _ := strings.Cut(text, "/")
		addr, err := netip.ParseAddr(bare)
		if err == nil && bare != text {
			_, err = netip.ParsePrefix(text)
		}
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return nil, fmt.Errorf("%q is no address; want one such as 10.65.0.7", text)
		}
		if slices.ContainsFunc(out, func(other netip.Addr) bool { return other.Is4() == addr.Is4() }) {
			return nil, fmt.Errorf("%q is the second address of its IP version; want one at most", text)
		}
		out = append(out, addr)
	}
	return out, nil
}

func (w *Wishes) readMAC(value string) (err error) {
	w.MAC, err = parseMAC(value)
	return err
}

func parseMAC(value string) (string, error) {
	mac, err := net.ParseMAC(value)
	switch {
	case err != nil || len(mac) != 6:
		return "", fmt.Errorf("%q is no MAC address; want one such as 02:00:00:00:00:01", value)
	case mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00":
		return "", fmt.Errorf("%s is not the MAC address of one interface; want one such as 02:00:00:00:00:01", value)
	case mac.String() == "ee:ee:ee:ee:ee:ee":
		return "", fmt.Errorf("%s is that of the node's end; choose another", value)
	}
	return mac.String(), nil
}
