package daemon

import (
	"errors"
	"net/netip"
	"testing"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/internal/overlay"
)

// TestPoolThatCanNotBeCarriedIsSaid and only where that keeps other nodes from its pods.
func TestPoolThatCanNotBeCarriedIsSaid(t *testing.T) {
	pool := calc.PoolOverlay{Prefix: netip.MustParsePrefix("10.65.0.0/16"), By: overlay.VXLAN}
	ipips, wrong := pool, pool
	ipips.By, wrong.Wrong = overlay.IPIP, "mode"
	on, off := config.Config{}, config.Config{}
	on.VXLAN.Enabled, on.IPIP.Enabled = true, true
	none := errors.New("no device")
	for _, tt := range []struct {
		name string
		pool calc.PoolOverlay
		cfg  config.Config
		vni  string
		dev  error
		want string
	}{
		{"nothing is wrong", pool, on, "", nil, ""},
		{"an unknown mode", wrong, on, "vni", none, "mode"},
		{"a VNI out of range", pool, on, "vni", none, "vni"},
		{"which IPIP does not have", ipips, on, "vni", nil, ""},
		{"a kernel that can't", ipips, on, "", none, "no device"},
		{"several things at once", pool, on, "", errors.Join(none, none), "no device; no device"},
		{"no part in VXLAN, as configured", wrong, off, "vni", none, ""},
		{"no part in IPIP, as configured", ipips, off, "", none, ""},
	} {
		if got := obstacle(tt.pool, tt.cfg, tt.vni, tt.dev); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
