// Package autodetect chooses the address by which the rest of the cluster reaches
// this node. It is pure: what the node looks like is its input, and every choice
// comes with its reason.
package autodetect

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Kind is how an address is looked for.
type Kind string

// The kinds, named as in IP_AUTODETECTION_METHOD.
const (
	// FirstFound takes the first address of a device that can be the node's own.
	FirstFound Kind = "first-found"
	// InternalIP takes the address that Kubernetes has as the node's InternalIP.
	InternalIP Kind = "kubernetes-internal-ip"
	// CanReach takes the address from which the node sends to a destination.
	CanReach Kind = "can-reach"
	// Interface takes the first address of a device whose name matches.
	Interface Kind = "interface"
	// SkipInterface is FirstFound without the devices whose name matches.
	SkipInterface Kind = "skip-interface"
	// CIDR takes the first address within one of the networks.
	CIDR Kind = "cidr"
)

// Method is a parsed IP_AUTODETECTION_METHOD.
type Method struct {
	Kind Kind
	// Destination of CanReach: an address or a host name.
	Destination string
	// names are the patterns of Interface and SkipInterface, in order.
	names []*regexp.Regexp
	// networks are those of CIDR.
	networks []netip.Prefix
	text     string
}

// String is the method as it was written.
func (m Method) String() string { return m.text }

// ErrMethod says that a method can't be used as it is written.
var ErrMethod = errors.New("unknown method")

const methods = "want first-found, kubernetes-internal-ip, can-reach=<address or host name>, interface=<regexp>[,…], skip-interface=<regexp>[,…] or cidr=<CIDR>[,…]"

// Parse reads a method; the empty text is FirstFound.
func Parse(text string) (Method, error) {
	m := Method{text: text}
	name, value, has := strings.Cut(text, "=")
	m.Kind = Kind(name)
	switch m.Kind {
	case "":
		return Method{Kind: FirstFound, text: string(FirstFound)}, nil
	case FirstFound, InternalIP:
		if has {
			return Method{}, fmt.Errorf("%q: %s takes no value: %w", text, name, ErrMethod)
		}
		return m, nil
	case CanReach, Interface, SkipInterface, CIDR:
	default:
		return Method{}, fmt.Errorf("%q: %w: %s", text, ErrMethod, methods)
	}
	if value == "" {
		return Method{}, fmt.Errorf("%q: the value is missing: %w: %s", text, ErrMethod, methods)
	}
	return m, m.parseValue(value)
}

func (m *Method) parseValue(value string) error {
	if m.Kind == CanReach {
		m.Destination = value
		return nil
	}
	for _, part := range strings.Split(value, ",") {
		part = strings.TrimSpace(part)
		if m.Kind == CIDR {
			network, err := netip.ParsePrefix(part)
			if err != nil {
				return fmt.Errorf("%q: %q is no CIDR: %w", m.text, part, ErrMethod)
			}
			m.networks = append(m.networks, network.Masked())
			continue
		}
		pattern, err := regexp.Compile(part)
		if err != nil || part == "" {
			return fmt.Errorf("%q: %q is no regular expression: %w", m.text, part, ErrMethod)
		}
		m.names = append(m.names, pattern)
	}
	return nil
}
