package daemon

import (
	"strings"
	"testing"

	"tortie/felix/config"
	"tortie/internal/kernel"
)

// TestMTUsThatDoNotFitPodsAreSaid in one line each, and none is said that does.
func TestMTUsThatDoNotFitPodsAreSaid(t *testing.T) {
	eth0 := kernel.Link{Name: "eth0", MTU: 1500}
	for name, tt := range map[string]struct {
		m     measures
		asked map[string]int
		v6    bool
		want  []string // how each line begins
	}{
		"nothing is set":                     {m: measures{device: eth0, used4: true}, v6: true},
		"less than IPv6 needs":               {m: measures{device: eth0, used4: true, vxlan: config.VXLAN{MTU4: 1200}}, v6: true, want: []string{"vxlanMTU 1200 is less than the 1280 that IPv6 needs (RFC 8200, section 5): pods with an IPv6 address have 1280,"}},
		"the same without IPv6 pools":        {m: measures{device: eth0, used4: true, vxlan: config.VXLAN{MTU4: 1200}}},
		"the same of a tunnel nobody uses":   {m: measures{device: eth0, vxlan: config.VXLAN{MTU4: 1200}}, v6: true},
		"IPIP":                               {m: measures{device: eth0, usedIPIP: true, ipip: config.IPIP{MTU: 1000}}, v6: true, want: []string{"ipipMTU 1000 is less than"}},
		"a device with a small MTU":          {m: measures{device: kernel.Link{Name: "eth0", MTU: 1300}, used4: true}, v6: true, want: []string{"the MTU of pods, 1250 by that of the device eth0, is less than"}},
		"a network that asks for less":       {m: measures{device: eth0}, asked: map[string]int{"net": 1200}, v6: true, want: []string{"mtu 1200 of the network configuration net is less than"}},
		"a network that asks for too much":   {m: measures{device: eth0, used4: true}, asked: map[string]int{"a": 1450, "b": 1500}, want: []string{"mtu 1500 of the network configuration b is more than the 1450 that goes through the overlays in use on this node:"}},
		"the same where nothing is overlaid": {m: measures{device: eth0}, asked: map[string]int{"b": 1500}},
	} {
		t.Run(name, func(t *testing.T) {
			got := tt.m.podProblems(tt.asked, tt.v6)
			if len(got) != len(tt.want) {
				t.Fatalf("problems %v, want %q", got, tt.want)
			}
			for i, p := range got {
				if !strings.HasPrefix(p.Line, tt.want[i]) || strings.ContainsAny(p.Line, "\n%") {
					t.Errorf("line %q, want it to begin with %q", p.Line, tt.want[i])
				}
			}
		})
	}
}
