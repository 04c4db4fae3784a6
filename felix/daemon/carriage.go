package daemon

import (
	"net/netip"
	"strings"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/internal/overlay"
)

// uncarried are the IP pools whose pods other nodes would not reach, or only by chance, as
// the configuration is, and why: no new pod gets an address of them. What runs goes on as
// well as it can.
func (f *felix) uncarried() map[netip.Prefix]string {
	overlays := f.desired().Overlays
	if len(overlays) == 0 {
		return nil
	}
	cfg, vni := f.config.Now(), f.config.wrong("vxlanVNI")
	var out map[netip.Prefix]string
	for _, o := range overlays {
		if why := obstacle(o, cfg, vni, f.tunnels.Failed(o.By, o.Prefix.Addr().Is6())); why != "" {
			if out == nil {
				out = map[netip.Prefix]string{}
			}
			out[o.Prefix] = "new pods would not be reached from other nodes: " + why
		}
	}
	return out
}

// obstacle is what keeps a pool's packets from being carried as the pool has it: vni is what
// is wrong with the setting, device why there is none. A node that is configured to have no
// part in an overlay wants it so.
func obstacle(o calc.PoolOverlay, cfg config.Config, vni string, device error) string {
	switch {
	case o.By == overlay.VXLAN && !cfg.VXLAN.Enabled, o.By == overlay.IPIP && !cfg.IPIP.Enabled:
		return ""
	case o.Wrong != "":
		return o.Wrong
	case o.By == overlay.VXLAN && vni != "":
		return vni
	case device != nil:
		return strings.ReplaceAll(device.Error(), "\n", "; ")
	}
	return ""
}
