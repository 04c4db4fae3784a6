package daemon

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"tortie/felix/calc"
	"tortie/felix/config"
)

func TestADDIsPermittedWhatItsEndpointWillHave(t *testing.T) {
	cfg := config.Config{}
	p := permits{func() config.Config { return cfg }, func() calc.State {
		return calc.State{Pools: []netip.Prefix{netip.MustParsePrefix("10.65.0.0/16")}}
	}}
	in, outside := netip.MustParseAddr("10.65.9.9"), netip.MustParseAddr("10.66.9.9")
	if err := p.Sources(); !errors.Is(err, calc.ErrSourcesForbidden) {
		t.Errorf("sources: %v", err)
	}
	if err := p.Floating(in); !errors.Is(err, calc.ErrFloatingForbidden) {
		t.Errorf("floating: %v", err)
	}
	cfg.Sources.Any, cfg.FloatingIPs = true, true
	if err := errors.Join(p.Sources(), p.Floating(in)); err != nil {
		t.Error(err)
	}
	if err := p.Floating(outside); err == nil || !strings.Contains(err.Error(), "10.66.9.9 lies in no IP pool") {
		t.Errorf("outside of the pools: %v", err)
	}
}
