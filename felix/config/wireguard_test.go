package config

import (
	"strings"
	"testing"
	"time"
)

// TestWireguardSettings: each field is taken, and what can't be is refused by name.
func TestWireguardSettings(t *testing.T) {
	with := func(change func(*Wireguard)) Wireguard {
		w := defaultWireguard()
		change(&w)
		return w
	}
	for _, tc := range []struct {
		env  string
		want Wireguard
		bad  string // "" for none
	}{
		{"WIREGUARDENABLED=true", with(func(w *Wireguard) { w.Enabled4 = true }), ""},
		{"WIREGUARDENABLEDV6=true", with(func(w *Wireguard) { w.Enabled6 = true }), ""},
		{"WIREGUARDHOSTENCRYPTIONENABLED=true", with(func(w *Wireguard) { w.Hosts = true }), ""},
		{"WIREGUARDROUTINGRULEPRIORITY=77", with(func(w *Wireguard) { w.Priority = 77 }), ""},
		{"ROUTETABLERANGE=7-9", with(func(w *Wireguard) { w.Table = 7 }), ""},
		{"ROUTETABLERANGES=253-255, 300-400", with(func(w *Wireguard) { w.Table = 300 }), ""},
		{"PROMETHEUSWIREGUARDMETRICSENABLED=false", with(func(w *Wireguard) { w.Metrics = false }), ""},
		{"WIREGUARDINTERFACENAME=wg0", with(func(w *Wireguard) { w.Name4 = "wg0" }), ""},
		{"WIREGUARDINTERFACENAMEV6=wg6", with(func(w *Wireguard) { w.Name6 = "wg6" }), ""},
		{"WIREGUARDLISTENINGPORT=1", with(func(w *Wireguard) { w.Port4 = 1 }), ""},
		{"WIREGUARDLISTENINGPORTV6=65535", with(func(w *Wireguard) { w.Port6 = 65535 }), ""},
		{"WIREGUARDMTU=1300", with(func(w *Wireguard) { w.MTU4 = 1300 }), ""},
		{"WIREGUARDMTUV6=1300", with(func(w *Wireguard) { w.MTU6 = 1300 }), ""},
		{"WIREGUARDPERSISTENTKEEPALIVE=25", with(func(w *Wireguard) { w.KeepAlive = 25 * time.Second }), ""},
		{"WIREGUARDKEYLIFETIME=720h", with(func(w *Wireguard) { w.KeyLifetime = 720 * time.Hour }), ""},
		{"WIREGUARDINTERFACENAME=wg-v6.cali", defaultWireguard(), "is the name of wireguardInterfaceNameV6"},
		{"WIREGUARDINTERFACENAME=a/b", defaultWireguard(), "no name of a device"},
		{"WIREGUARDROUTINGRULEPRIORITY=32766", defaultWireguard(), "not within 1 to 32765"},
		{"ROUTETABLERANGES=9-3", defaultWireguard(), "no routing table"},
		{"ROUTETABLERANGES=many", defaultWireguard(), "1-250"},
		{"WIREGUARDLISTENINGPORT=0", defaultWireguard(), "not within 1 to 65535"},
		{"WIREGUARDMTUV6=1200", defaultWireguard(), "1280"},
		{"WIREGUARDPERSISTENTKEEPALIVE=0.5", defaultWireguard(), "number of seconds"},
	} {
		t.Run(tc.env, func(t *testing.T) {
			c, problems := Resolve(FromEnv([]string{"FELIX_" + tc.env}))
			if c.Wireguard != tc.want {
				t.Errorf("%+v, want %+v", c.Wireguard, tc.want)
			}
			name, _, _ := strings.Cut(tc.env, "=")
			switch {
			case tc.bad == "" && len(problems) > 0:
				t.Errorf("problems %v", problems)
			case tc.bad != "" && (len(problems) != 1 || !strings.Contains(problems[0].String(), name) || !strings.Contains(problems[0].String(), tc.bad)):
				t.Errorf("problems %v, want one of %s that says %q", problems, name, tc.bad)
			}
		})
	}
}

// TestTablesOfAResource: the ranges of routing tables are taken as a FelixConfiguration has
// them, and the newer field counts.
func TestTablesOfAResource(t *testing.T) {
	for spec, want := range map[string]int{
		`{"routeTableRange": {"min": 20, "max": 30}}`:                                             20,
		`{"routeTableRanges": [{"min": 254, "max": 254}, {"min": 255, "max": 300}]}`:              256,
		`{"routeTableRange": {"min": 20, "max": 30}, "routeTableRanges": [{"min": 7, "max": 8}]}`: 7,
	} {
		layer, err := FromStored("default", []byte(`{"spec": `+spec+`}`))
		if err != nil {
			t.Fatal(err)
		}
		if c, problems := Resolve(layer); c.Wireguard.Table != want || len(problems) > 0 {
			t.Errorf("%s: table %d, want %d; %v", spec, c.Wireguard.Table, want, problems)
		}
	}
}
