package felixsetting

import "strconv"

// The defaults of what must be different from one another.
const (
	DefaultVXLANPort       = 4789
	DefaultWireguardPort4  = 51820
	DefaultWireguardPort6  = 51821
	DefaultWireguardName4  = "wireguard.cali"
	DefaultWireguardName6  = "wg-v6.cali"
	bfdPort                = 3784 // bgpd's (RFC 5881)
	fieldVXLANPort         = "vxlanPort"
	fieldWireguardPort4    = "wireguardListeningPort"
	fieldWireguardPort6    = "wireguardListeningPortV6"
	fieldWireguardDevice4  = "wireguardInterfaceName"
	fieldWireguardDevice6  = "wireguardInterfaceNameV6"
	kindOfPort, kindOfName = "UDP port", "name"
)

// Distinct are the settings of a node that must differ from one another.
type Distinct struct {
	// VXLANPort is 0 where the node has no part in VXLAN.
	VXLANPort, WireguardPort4, WireguardPort6 uint16
	WireguardName4, WireguardName6            string
}

// Clash is a field whose value something else has, in words that go on from the value.
type Clash struct{ Field, Value, Reason string }

// claim is a value that is one's own, and what it is when it can't be.
type claim struct{ field, whose, value, byDefault string }

// Settle gives each that wants what another has its default back, and says which: never
// one that is as by default, and of two others the latter.
func (d *Distinct) Settle() []Clash {
	port := func(n uint16) string { return strconv.Itoa(int(n)) }
	ports := []claim{
		{"", "BFD", port(bfdPort), port(bfdPort)},
		{fieldWireguardPort4, fieldWireguardPort4, port(d.WireguardPort4), port(DefaultWireguardPort4)},
		{fieldWireguardPort6, fieldWireguardPort6, port(d.WireguardPort6), port(DefaultWireguardPort6)},
	}
	if d.VXLANPort != 0 {
		ports = append(ports, claim{fieldVXLANPort, fieldVXLANPort, port(d.VXLANPort), port(DefaultVXLANPort)})
	}
	names := []claim{
		{fieldWireguardDevice4, fieldWireguardDevice4, d.WireguardName4, DefaultWireguardName4},
		{fieldWireguardDevice6, fieldWireguardDevice6, d.WireguardName6, DefaultWireguardName6},
	}
	clashes := append(settle(ports, kindOfPort), settle(names, kindOfName)...)
	for _, c := range clashes {
		switch c.Field {
		case fieldVXLANPort:
			d.VXLANPort = DefaultVXLANPort
		case fieldWireguardPort4:
			d.WireguardPort4 = DefaultWireguardPort4
		case fieldWireguardPort6:
			d.WireguardPort6 = DefaultWireguardPort6
		case fieldWireguardDevice4:
			d.WireguardName4 = DefaultWireguardName4
		case fieldWireguardDevice6:
			d.WireguardName6 = DefaultWireguardName6
		}
	}
	return clashes
}

// settle ends, for each round has one more at its default, and these are different.
func settle(claims []claim, kind string) (clashes []Clash) {
	for {
		winner, loser := clash(claims)
		if loser == nil {
			return clashes
		}
		clashes = append(clashes, Clash{loser.field, loser.value, "is the " + kind + " of " + winner.whose})
		loser.value = loser.byDefault
	}
}

func clash(claims []claim) (winner, loser *claim) {
	for j := range claims {
		for i := range claims[:j] {
			a, b := &claims[i], &claims[j]
			switch {
			case a.value != b.value:
			case b.value == b.byDefault:
				return b, a
			default:
				return a, b
			}
		}
	}
	return nil, nil
}
