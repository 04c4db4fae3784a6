package api

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"tortie/internal/selector"
)

// maxName is the longest name of a resource (RFC 1123 and Kubernetes).
const maxName = 253

// name checks the name of a resource or a reference to one: lower-case letters,
// digits, - and ., a letter or digit at both ends of every part.
func (c *checker) name(field, value string) {
	switch {
	case value == "":
		c.missing(field, "is missing")
	case strings.Contains(value, "/"):
		c.bad(field, value, "must not contain a slash; want lower-case letters, digits, '-' and '.'")
	case len(value) > maxName:
		c.bad(field, value, "is %d characters long, want at most %d", len(value), maxName)
	case len(validation.IsDNS1123Subdomain(value)) > 0:
		c.bad(field, value, "want lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part")
	}
}

// optionalName is name for a field that may be empty.
func (c *checker) optionalName(field, value string) {
	if value != "" {
		c.name(field, value)
	}
}

func (c *checker) names(field string, values []string) {
	for i, v := range values {
		c.name(at(field, i), v)
	}
}

// oneOf checks a word against the allowed ones; empty is allowed.
func oneOf[T ~string](c *checker, field string, value T, allowed ...T) {
	if value == "" || slices.Contains(allowed, value) {
		return
	}
	texts := make([]string, len(allowed))
	for i, a := range allowed {
		texts[i] = string(a)
	}
	c.bad(field, string(value), "want one of %s", strings.Join(texts, ", "))
}

// oneOfPtr is oneOf for an optional field.
func oneOfPtr[T ~string](c *checker, field string, value *T, allowed ...T) {
	if value != nil {
		oneOf(c, field, *value, allowed...)
	}
}

// unique checks that a list names nothing twice.
func unique[T comparable](c *checker, field string, values []T) {
	seen := map[T]bool{}
	for i, v := range values {
		if seen[v] {
			c.bad(at(field, i), v, "is given twice")
		}
		seen[v] = true
	}
}

// logLevel checks a log severity.
func (c *checker) logLevel(field, value string) {
	oneOf(c, field, value, "Trace", "Debug", "Info", "Warning", "Error", "Fatal")
}

// between checks an optional number.
func between[T int | int32 | uint8 | uint16 | uint32](c *checker, field string, value *T, least, most int64) {
	if value != nil && (int64(*value) < least || int64(*value) > most) {
		c.bad(field, *value, "want %d to %d", least, most)
	}
}

// duration checks an optional time span; most is 0 for no limit.
func (c *checker) duration(field string, value *metav1.Duration, most time.Duration) {
	switch {
	case value == nil:
	case value.Duration < 0:
		c.bad(field, value.Duration, "must not be negative")
	case most > 0 && value.Duration > most:
		c.bad(field, value.Duration, "want at most %s", most)
	}
}

// asn checks an AS number; 0 is reserved (RFC 7607).
func (c *checker) asn(field string, value *ASN) {
	if value != nil && *value == 0 {
		c.bad(field, *value, "want 1 to 4294967295")
	}
}

// addr checks an IP address without a zone. family is 4, 6 or 0 for either.
func (c *checker) addr(field, value string, family int) (netip.Addr, bool) {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		c.bad(field, value, "want %s such as %s", familyName(family, "address"), exampleAddr(family))
		return netip.Addr{}, false
	}
	return a, c.family(field, value, a, family, "address")
}

// optionalAddr is addr for a field that may be empty.
func (c *checker) optionalAddr(field, value string, family int) {
	if value != "" {
		c.addr(field, value, family)
	}
}

// cidr checks a CIDR that has no host bits.
func (c *checker) cidr(field, value string, family int) (netip.Prefix, bool) {
	if value == "" {
		c.missing(field, "is missing, want %s such as %s", familyName(family, "CIDR"), exampleCIDR(family))
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(value)
	switch {
	case err != nil || p.Addr().Is4In6():
		c.bad(field, value, "want %s such as %s", familyName(family, "CIDR"), exampleCIDR(family))
		return netip.Prefix{}, false
	case p != p.Masked():
		c.bad(field, value, "has host bits; did you mean %s?", p.Masked())
		return netip.Prefix{}, false
	}
	return p, c.family(field, value, p.Addr(), family, "CIDR")
}

// network checks an address or a CIDR with or without host bits, which upstream
// accepts wherever it only matches traffic.
func (c *checker) network(field, value string, family int) (netip.Prefix, bool) {
	if !strings.Contains(value, "/") {
		a, err := netip.ParseAddr(value)
		if err == nil && a.Zone() == "" && !a.Is4In6() {
			return netip.PrefixFrom(a, a.BitLen()), c.family(field, value, a, family, "address")
		}
	}
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Addr().Is4In6() {
		c.bad(field, value, "want %s or address such as %s", familyName(family, "CIDR"), exampleCIDR(family))
		return netip.Prefix{}, false
	}
	return p.Masked(), c.family(field, value, p.Addr(), family, "CIDR")
}

func (c *checker) networks(field string, values []string) {
	for i, v := range values {
		c.network(at(field, i), v, 0)
	}
}

func (c *checker) family(field, value string, a netip.Addr, family int, what string) bool {
	if family == 0 || (family == 4) == a.Is4() {
		return true
	}
	c.bad(field, value, "want %s", familyName(family, what))
	return false
}

func familyName(family int, what string) string {
	switch family {
	case 4:
		return "an IPv4 " + what
	case 6:
		return "an IPv6 " + what
	}
	if what == "CIDR" {
		return "a " + what
	}
	return "an IP " + what
}

func exampleCIDR(family int) string {
	if family == 6 {
		return "fd00:65::/48"
	}
	return "10.65.0.0/16"
}

func exampleAddr(family int) string {
	if family == 6 {
		return "fd00::1"
	}
	return "10.0.0.1"
}

// selector checks that a selector parses and doesn't use global(), which only
// the namespace selector of a rule may.
func (c *checker) selector(field, value string) {
	if s := c.parseSelector(field, value); s != nil && s.UsesGlobal() {
		c.bad(field, value, "global() is only allowed in the namespaceSelector of a rule")
	}
}

func (c *checker) parseSelector(field, value string) *selector.Selector {
	s, err := selector.Parse(value)
	if err != nil {
		reason := err.Error()
		var parse *selector.ParseError
		if errors.As(err, &parse) {
			reason = parse.Where()
		}
		c.bad(field, value, "%s", reason)
		return nil
	}
	return s
}

// labels checks a set of labels as Kubernetes does.
func (c *checker) labels(field string, labels map[string]string) {
	for _, name := range sortedKeys(labels) {
		if problems := validation.IsQualifiedName(name); len(problems) > 0 {
			c.bad(field, name, "is not a label name: want letters, digits, '-', '_' and '.', with an optional domain before a slash")
		} else if problems := validation.IsValidLabelValue(labels[name]); len(problems) > 0 {
			c.bad(field+"["+name+"]", labels[name], "want at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends")
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// maxInterfaceName is the longest name of a Linux network device.
const maxInterfaceName = 15

// interfaceName checks the name of a network device, which may be empty.
func (c *checker) interfaceName(field, value string) {
	if len(value) > maxInterfaceName || strings.ContainsAny(value, "/: \t\n") || value == "." || value == ".." {
		c.bad(field, value, "want the name of a network device: at most %d characters, no slash, colon or space", maxInterfaceName)
	}
}

// mac checks an Ethernet address, which may be empty.
func (c *checker) mac(field, value string) {
	if value == "" {
		return
	}
	ok := len(value) == 17
	for i := 0; ok && i < len(value); i++ {
		if i%3 == 2 {
			ok = value[i] == ':'
		} else {
			ok = strings.IndexByte("0123456789abcdefABCDEF", value[i]) >= 0
		}
	}
	if !ok {
		c.bad(field, value, "want an Ethernet address such as 0a:34:c9:aa:41:70")
	}
}

// portName checks the name of a port.
func (c *checker) portName(field, value string) {
	ok := value != "" && len(value) <= 128
	for i := 0; ok && i < len(value); i++ {
		b := value[i]
		ok = b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("_.-", b) >= 0
	}
	if !ok {
		c.bad(field, value, "want 1 to 128 letters, digits, '-', '_' and '.'")
	}
}
