package felixsetting_test

import (
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/felixsetting"
)

// TestWhatIsSettledDiffers, and what differed stays.
func TestWhatIsSettledDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		port := rapid.SampledFrom([]uint16{3784, 4789, 51820, 51821, 7777, 8888})
		name := rapid.SampledFrom([]string{"wireguard.cali", "wg-v6.cali", "wg0"})
		d := felixsetting.Distinct{
			VXLANPort: rapid.SampledFrom([]uint16{0, 4789, 51820, 51821, 7777}).Draw(t, "vxlan"), WireguardPort4: port.Draw(t, "port4"), WireguardPort6: port.Draw(t, "port6"),
			WireguardName4: name.Draw(t, "name4"), WireguardName6: name.Draw(t, "name6"),
		}
		before := d
		clashes := d.Settle()
		if !distinct(d) {
			t.Errorf("%+v is settled as %+v", before, d)
		}
		if distinct(before) != (len(clashes) == 0) || (before == d) != (len(clashes) == 0) {
			t.Errorf("%+v is settled as %+v with %v", before, d, clashes)
		}
		if again := d; len(again.Settle()) > 0 {
			t.Errorf("%+v has to be settled again", d)
		}
	})
}

func distinct(d felixsetting.Distinct) bool {
	ports := map[uint16]bool{3784: true}
	for _, p := range []uint16{d.VXLANPort, d.WireguardPort4, d.WireguardPort6} {
		if p != 0 && ports[p] {
			return false
		}
		ports[p] = true
	}
	return d.WireguardName4 != d.WireguardName6
}
