package daemon

import (
	"net/netip"

	"tortie/felix/calc"
	"tortie/felix/config"
)

// permitted is what the configuration lets endpoints have.
func permitted(c config.Config) calc.Permit {
	return calc.Permit{Sources: c.Sources.Any, Floating: c.FloatingIPs}
}

// permits answers the CNI server as calc will judge the endpoint.
type permits struct {
	settings func() config.Config
	desired  func() calc.State
}

func (p permits) Sources() error {
	if !permitted(p.settings()).Sources {
		return calc.ErrSourcesForbidden
	}
	return nil
}

func (p permits) Floating(a netip.Addr) error {
	if !permitted(p.settings()).Floating {
		return calc.ErrFloatingForbidden
	}
	s := p.desired()
	return calc.RefuseFloating(a, &s)
}
