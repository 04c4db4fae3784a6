package config_test

import (
	"encoding/json"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/config"
	"tortie/internal/api"
)

// TestCalicoctlRefusesWhatFelixDoes, and nothing else: by the name of the same field.
func TestCalicoctlRefusesWhatFelixDoes(t *testing.T) {
	long := strings.Repeat("a", 16)
	for _, tt := range []struct {
		spec  string
		field string // that is refused; empty for none
	}{
		{`{}`, ""},
		{`{"vxlanMTU": 40}`, "vxlanMTU"},
		{`{"vxlanMTU": 575}`, "vxlanMTU"},
		{`{"vxlanMTU": 576}`, ""},
		{`{"vxlanMTU": 65536}`, "vxlanMTU"},
		{`{"vxlanMTUV6": 1279}`, "vxlanMTUV6"},
		{`{"vxlanMTUV6": 1280}`, ""},
		{`{"ipipMTU": -1}`, "ipipMTU"},
		{`{"wireguardMTU": 68}`, "wireguardMTU"},
		{`{"wireguardMTUV6": 1000}`, "wireguardMTUV6"},
		{`{"natOutgoingAddress": "127.0.0.1"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "0.0.0.0"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "0.1.2.3"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "224.0.0.1"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "169.254.1.1"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "255.255.255.255"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "fd00::1"}`, "natOutgoingAddress"},
		{`{"natOutgoingAddress": "192.0.2.1"}`, ""},
		{`{"wireguardListeningPort": 51821}`, "wireguardListeningPort"},
		{`{"wireguardListeningPort": 4789}`, "wireguardListeningPort"},
		{`{"wireguardListeningPort": 4789, "vxlanEnabled": false}`, ""},
		{`{"wireguardListeningPort": 3784}`, "wireguardListeningPort"},
		{`{"wireguardListeningPort": 5555, "vxlanPort": 5555}`, "vxlanPort"},
		{`{"wireguardListeningPort": 51821, "wireguardListeningPortV6": 51820}`, ""},
		{`{"wireguardListeningPort": 7000, "wireguardListeningPortV6": 7000}`, "wireguardListeningPortV6"},
		{`{"vxlanPort": 51820}`, "vxlanPort"},
		{`{"wireguardInterfaceName": "wg-v6.cali"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceNameV6": "wireguard.cali"}`, "wireguardInterfaceNameV6"},
		{`{"wireguardInterfaceName": "wg0", "wireguardInterfaceNameV6": "wg0"}`, "wireguardInterfaceNameV6"},
		{`{"wireguardInterfaceName": "wg-v6.cali", "wireguardInterfaceNameV6": "wireguard.cali"}`, ""},
		{`{"wireguardInterfaceName": "lo"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": "eth0"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": "enp0s3"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": "vxlan.calico"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": "cali123"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": ".."}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": "` + long + `"}`, "wireguardInterfaceName"},
		{`{"wireguardInterfaceName": "wg0"}`, ""},
		{`{"wireguardKeepAlive": "500ms"}`, "wireguardKeepAlive"},
		{`{"wireguardKeepAlive": "18h13m"}`, "wireguardKeepAlive"},
		{`{"wireguardKeepAlive": "25s"}`, ""},
		{`{"routeTableRanges": [{"min": 254, "max": 254}]}`, "routeTableRanges"},
		{`{"routeTableRanges": [{"min": 254, "max": 254}, {"min": 300, "max": 300}]}`, ""},
		{`{"routeTableRanges": []}`, "routeTableRanges"},
		{`{"routeTableRange": {"min": 0, "max": 0}}`, "routeTableRange"},
		{`{"iptablesNATOutgoingInterfaceFilter": "e+h"}`, "iptablesNATOutgoingInterfaceFilter"},
		{`{"iptablesNATOutgoingInterfaceFilter": "+"}`, "iptablesNATOutgoingInterfaceFilter"},
		{`{"iptablesNATOutgoingInterfaceFilter": "\"; drop"}`, "iptablesNATOutgoingInterfaceFilter"},
		{`{"iptablesNATOutgoingInterfaceFilter": "` + long + `"}`, "iptablesNATOutgoingInterfaceFilter"},
		{`{"iptablesNATOutgoingInterfaceFilter": "eth+"}`, ""},
		{`{"healthHost": "not a host"}`, "healthHost"},
		{`{"healthHost": "::1"}`, ""},
		{`{"prometheusMetricsHost": "-"}`, "prometheusMetricsHost"},
		{`{"routeRefreshInterval": "0s"}`, "routeRefreshInterval"},
		{`{"externalNodesList": ["0.0.0.0/0"]}`, "externalNodesList"},
		{`{"externalNodesList": ["192.0.2.7"]}`, ""},
		{`{"interfacePrefix": "tap"}`, "interfacePrefix"},
		{`{"mtuIfacePattern": "("}`, "mtuIfacePattern"},
		{`{"vxlanVNI": 16777216}`, "vxlanVNI"},
		{`{"healthPort": 65536}`, "healthPort"},
		{`{"serviceLoopPrevention": "drop it"}`, "serviceLoopPrevention"},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			spec := tt.spec
			if calicoctl := refusedByCalicoctl(t, spec); calicoctl != tt.field {
				t.Errorf("calicoctl refuses %q, want %q", calicoctl, tt.field)
			}
			layer, err := config.FromStored("default", []byte(`{"spec": `+spec+`}`))
			if err != nil {
				t.Fatal(err)
			}
			_, problems := config.Resolve(layer)
			felix := ""
			for _, p := range problems {
				if p.Bad {
					felix = p.Field
					if want := "FelixConfiguration default: spec." + tt.field + ": "; !strings.HasPrefix(p.String(), want) {
						t.Errorf("felix says %q, want it to begin with %q", p, want)
					}
				}
			}
			if felix != tt.field {
				t.Errorf("felix refuses %q, want %q: %v", felix, tt.field, problems)
			}
		})
	}
}

// refusedByCalicoctl is the field that a FelixConfiguration is refused for.
func refusedByCalicoctl(t *testing.T, spec string) string {
	t.Helper()
	f := v3.NewFelixConfiguration()
	f.Name = "default"
	if err := json.Unmarshal([]byte(spec), &f.Spec); err != nil {
		t.Fatal(err)
	}
	err := api.NewRegistry().Validate(f)
	if err == nil {
		return ""
	}
	_, text, _ := strings.Cut(err.Error(), "spec.")
	return text[:strings.IndexAny(text, ":[ ")]
}

// TestWhatClashesLeavesTheRestAlone: the field counts for nothing, and what another has
// stays.
func TestWhatClashesLeavesTheRestAlone(t *testing.T) {
	layer, err := config.FromStored("default", []byte(`{"spec": {"wireguardListeningPort": 51821, "vxlanPort": 51821, "vxlanMTU": 1400, "natOutgoingAddress": "127.0.0.1"}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, problems := config.Resolve(layer)
	if len(problems) != 3 {
		t.Errorf("problems %v", problems)
	}
	if w := c.Wireguard; w.Port4 != 51820 || w.Port6 != 51821 || c.VXLAN.Port != 4789 || c.VXLAN.MTU4 != 1400 || c.NAT.How.Address.IsValid() {
		t.Errorf("configuration %+v", c)
	}
}
