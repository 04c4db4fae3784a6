package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/felix/nat"
)

func file(t *testing.T, content string) Layer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "felix.cfg")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func resource(t *testing.T, name string, change func(*v3.FelixConfigurationSpec)) Layer {
	t.Helper()
	r := v3.NewFelixConfiguration()
	r.Name = name
	change(&r.Spec)
	l, err := FromResource(r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStrongerSourceWins(t *testing.T) {
	env := FromEnv([]string{"FELIX_LOGSEVERITYSCREEN=Error", "PATH=/bin", "felix_healthport=1"})
	cfg := file(t, "[global]\n# a comment\nLogSeverityScreen = Debug\nHealthPort=2\nRouteRefreshInterval = 30\n")
	node := resource(t, "node.node1", func(s *v3.FelixConfigurationSpec) {
		s.RouteRefreshInterval = &metav1.Duration{Duration: time.Minute}
		enabled := true
		s.HealthEnabled = &enabled
	})
	byDefault := resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		enabled := false
		s.HealthEnabled = &enabled
		s.IPForwarding = "Disabled"
	})
	c, problems := Resolve(env, cfg, node, byDefault)
	if len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	if c.LogLevel != slog.LevelError || c.HealthAddress != "localhost:1" || c.RouteRefreshInterval != 30*time.Second || !c.HealthEnabled || c.IPForwarding {
		t.Errorf("configuration %+v", c)
	}
}

func TestDefaultsAreUpstreams(t *testing.T) {
	c, problems := Resolve()
	if len(problems) != 0 || c.LogLevel != slog.LevelInfo || !c.IPForwarding || c.RouteRefreshInterval != 90*time.Second ||
		c.HealthEnabled || c.HealthAddress != "localhost:9099" || c.CNISocket != "/var/run/calico/felix-cni.sock" {
		t.Errorf("configuration %+v, problems %v", c, problems)
	}
}

func TestProblemsNameSourceParameterAndRemedy(t *testing.T) {
	for _, tc := range []struct {
		layer Layer
		says  []string
		bad   bool
	}{
		{FromEnv([]string{"FELIX_LOGSEVERITYSCREN=x"}), []string{"environment", "FELIX_LOGSEVERITYSCREN", "did you mean LogSeverityScreen?"}, true},
		{FromEnv([]string{"FELIX_XYZZYPLUGH=x"}), []string{"FELIX_XYZZYPLUGH", "is no parameter"}, true},
		{FromEnv([]string{"FELIX_LOGSEVERITYSCREEN=loud"}), []string{`"loud" is no severity`}, true},
		{FromEnv([]string{"FELIX_ROUTEREFRESHINTERVAL=-1"}), []string{"is no interval"}, true},
		{FromEnv([]string{"FELIX_ROUTEREFRESHINTERVAL=NaN"}), []string{"is no interval"}, true},
		{FromEnv([]string{"FELIX_HEALTHPORT=70000"}), []string{"is no port"}, true},
		{FromEnv([]string{"FELIX_HEALTHENABLED=perhaps"}), []string{"neither true nor false"}, true},
		{FromEnv([]string{"FELIX_IPFORWARDING=true"}), []string{"neither Enabled nor Disabled"}, true},
		{FromEnv([]string{"FELIX_INTERFACEPREFIX=tap"}), []string{"want cali"}, true},
		{FromEnv([]string{"FELIX_DATASTORETYPE=kubernetes"}), []string{"want etcdv3"}, true},
		{FromEnv([]string{"FELIX_CNISOCKET=relative"}), []string{"absolute path"}, true},
		{FromEnv([]string{"FELIX_BPFENABLED=true"}), []string{"known but has no effect"}, false},
		{file(t, "BPFLogLevel = debug"), []string{"BPFLogLevel", "no effect"}, false},
		{resource(t, "default", func(s *v3.FelixConfigurationSpec) { s.BPFLogLevel = "Debug" }), []string{"FelixConfiguration default", "spec.bpfLogLevel"}, false},
		{resource(t, "default", func(s *v3.FelixConfigurationSpec) { n := 500; s.IPIPMTU = &n }), []string{"spec.ipipMTU", "is not within 576"}, true},
		{FromEnv([]string{"FELIX_EXTERNALNODESCIDRLIST=192.0.2.0/24,everybody"}), []string{"is no list of networks"}, true},
		{FromEnv([]string{"FELIX_EXTERNALNODESCIDRLIST=0.0.0.0/0"}), []string{"is no list of networks"}, true},
		{FromEnv([]string{"FELIX_VXLANVNI=16777216"}), []string{"is not within 1 to 16777215"}, true},
		{FromEnv([]string{"FELIX_NATPORTRANGE=9:3"}), []string{"is no range of ports"}, true},
		{FromEnv([]string{"FELIX_NATPORTRANGE=1:70000"}), []string{"is no range of ports"}, true},
		{FromEnv([]string{"FELIX_NATOUTGOINGADDRESS=fd00::1"}), []string{"is no IPv4 address"}, true},
		{FromEnv([]string{"FELIX_NATOUTGOINGEXCLUSIONS=Nodes"}), []string{"is neither IPPoolsOnly nor IPPoolsAndHostIPs"}, true},
		{FromEnv([]string{"FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER=a\" accept"}), []string{"is no name of a device"}, true},
		{FromEnv([]string{"FELIX_MTUIFACEPATTERN=("}), []string{"is no regular expression"}, true},
		{FromEnv([]string{"FELIX_VXLANPORT=0"}), []string{"is not within 1 to 65535"}, true},
		{FromEnv([]string{"FELIX_VXLANMTU=500"}), []string{"is not within 576 to 65535, nor 0"}, true},
		{resource(t, "default", func(s *v3.FelixConfigurationSpec) { n := 1000; s.VXLANMTUV6 = &n }), []string{"spec.vxlanMTUV6", "is not within 1280"}, true},
	} {
		_, problems := Resolve(tc.layer)
		if len(problems) != 1 || problems[0].Bad != tc.bad {
			t.Errorf("%v: problems %v", tc.says, problems)
			continue
		}
		for _, s := range tc.says {
			if !strings.Contains(problems[0].String(), s) {
				t.Errorf("problem %q does not say %q", problems[0], s)
			}
		}
	}
}

func TestIPIPSettingsAreServed(t *testing.T) {
	c, problems := Resolve(resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		off, mtu := false, 1400
		s.IPIPEnabled, s.IPIPMTU = &off, &mtu
		s.ExternalNodesCIDRList = &[]string{"192.0.2.7/24", "198.51.100.7"}
	}))
	if want := (IPIP{MTU: 1400}); c.IPIP != want || len(problems) != 0 || fmt.Sprint(c.ExternalNodes) != "[192.0.2.0/24 198.51.100.7/32]" {
		t.Errorf("%+v and %v, want %+v; problems %v", c.IPIP, c.ExternalNodes, want, problems)
	}
	c, problems = Resolve(FromEnv([]string{"FELIX_EXTERNALNODESCIDRLIST=192.0.2.0/24, fd00::/64"}))
	if want := (IPIP{Enabled: true}); c.IPIP != want || fmt.Sprint(c.ExternalNodes) != "[192.0.2.0/24 fd00::/64]" || len(problems) != 0 {
		t.Errorf("defaults %+v are not upstream's, or %v, %v", c.IPIP, c.ExternalNodes, problems)
	}
}

func TestVXLANSettingsAreServed(t *testing.T) {
	c, problems := Resolve(FromEnv([]string{"FELIX_VXLANPORT=8472"}), resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		off, vni, port, mtu := false, 7, 4790, 1400
		s.VXLANEnabled, s.VXLANVNI, s.VXLANPort, s.VXLANMTU, s.VXLANMTUV6 = &off, &vni, &port, &mtu, &mtu
	}))
	if want := (VXLAN{Enabled: false, VNI: 7, Port: 8472, MTU4: 1400, MTU6: 1400}); c.VXLAN != want || len(problems) != 0 {
		t.Errorf("%+v, want %+v; problems %v", c.VXLAN, want, problems)
	}
	if c, _ := Resolve(); c.VXLAN != (VXLAN{Enabled: true, VNI: 4096, Port: 4789}) {
		t.Errorf("defaults %+v are not upstream's", c.VXLAN)
	}
}

func TestNATSettingsAreServed(t *testing.T) {
	c, problems := Resolve(resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		ports, err := numorstring.PortFromRange(32768, 65535)
		if err != nil {
			t.Fatal(err)
		}
		only := v3.NATOutgoingExclusionsIPPoolsOnly
		s.NATPortRange, s.NATOutgoingAddress, s.NATOutgoingExclusions, s.IptablesNATOutgoingInterfaceFilter = &ports, "192.0.2.9", &only, "eth+"
	}))
	want := NAT{How: nat.How{Ports: nat.Ports{First: 32768, Last: 65535}, Address: netip.MustParseAddr("192.0.2.9"), Device: "eth*"}}
	if c.NAT != want || len(problems) != 0 {
		t.Errorf("%+v, want %+v; problems %v", c.NAT, want, problems)
	}
	if c, _ := Resolve(); c.NAT != (NAT{ExemptNodes: true}) {
		t.Errorf("default %+v", c.NAT)
	}
}

func TestMTUSettingsAreServed(t *testing.T) {
	c, problems := Resolve(FromEnv([]string{"FELIX_MTUFILE=/x/mtu", "FELIX_PATHMTUPROBEINTERVAL=0"}), resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		require := true
		s.MTUIfacePattern, s.RequireMTUFile = `^bond\d<`, &require
	}))
	if c.MTU != (MTU{Pattern: `^bond\d<`, RequireFile: true}) || c.MTUFile != "/x/mtu" || c.PathMTUProbeInterval != 0 || len(problems) != 0 {
		t.Errorf("%+v, problems %v", c, problems)
	}
	c, problems = Resolve(FromEnv([]string{"FELIX_MTUIFACEPATTERN=" + known()["mtuifacepattern"].byDefault}))
	if c.MTU != (MTU{}) || c.MTUFile != "/var/lib/calico/mtu" || c.PathMTUProbeInterval != 15*time.Second || len(problems) != 0 {
		t.Errorf("defaults %+v, problems %v", c, problems)
	}
}

func TestBadValueLeavesTheWeakerSource(t *testing.T) {
	c, problems := Resolve(FromEnv([]string{"FELIX_LOGSEVERITYSCREEN=loud"}), file(t, "LogSeverityScreen = Debug"))
	if len(problems) != 1 || c.LogLevel != slog.LevelDebug {
		t.Errorf("%+v, problems %v", c, problems)
	}
}

func TestSettingsAtTheirDefaultAreNotWarnedOf(t *testing.T) {
	// As upstream's calicoctl stores every FelixConfiguration.
	l := resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		mode, lb, nat, fips := v3.NFTablesMode("Auto"), v3.BPFConnectTimeLBTCP, v3.BPFHostNetworkedNATEnabled, v3.FloatingIPsDisabled
		s.NFTablesMode, s.BPFConnectTimeLoadBalancing, s.BPFHostNetworkedNATWithoutCTLB, s.FloatingIPs = &mode, &lb, &nat, &fips
	})
	if _, problems := Resolve(l); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

func TestUpstreamTableIsWhole(t *testing.T) {
	if n := len(known()); n != 202 {
		t.Errorf("%d parameters, want upstream's 202", n)
	}
	h := &addresses{}
	for _, p := range parameters(h) {
		u, ok := known()[strings.ToLower(p.name)]
		if ok && p.field != "" && (u.field != p.field || u.name != p.name) {
			t.Errorf("%+v is upstream's %+v", p.name, u)
		}
	}
}

func TestFileWithoutAssignmentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "felix.cfg")
	if err := os.WriteFile(path, []byte("[global]\nLogSeverityScreen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v", err)
	}
	if _, err := FromFile(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("no file: %v", err)
	}
}

// TestFieldThatCanNotBeReadTakesNoOtherWithIt: somebody wrote the resource past calicoctl.
func TestFieldThatCanNotBeReadTakesNoOtherWithIt(t *testing.T) {
	l, err := FromStored("default", []byte(`{"kind":"FelixConfiguration","spec":{"vxlanVNI":"many","vxlanPort":4790,"routeRefreshInterval":"30s","ipForwarding":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, problems := Resolve(l)
	if c.VXLAN.VNI != 4096 || c.VXLAN.Port != 4790 || c.RouteRefreshInterval != 30*time.Second || !c.IPForwarding {
		t.Errorf("configuration %+v", c)
	}
	for _, says := range []string{`FelixConfiguration default: spec.vxlanVNI: "many" is not within 1 to 16777215`, "spec.ipForwarding"} {
		if !slices.ContainsFunc(problems, func(p Problem) bool { return p.Bad && strings.Contains(p.String(), says) }) {
			t.Errorf("problems %v do not say %s", problems, says)
		}
	}
	if _, err := FromStored("default", []byte("{")); err == nil || !strings.Contains(err.Error(), "FelixConfiguration default") {
		t.Errorf("not JSON: %v", err)
	}
}

func TestNodeName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodename")
	if err := os.WriteFile(path, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none")
	for _, tc := range []struct {
		env  map[string]string
		file string
		want string
		says string
	}{
		{map[string]string{"FELIX_FELIXHOSTNAME": "a", "NODENAME": "b"}, path, "a", ""},
		{map[string]string{"NODENAME": "b"}, path, "b", ""},
		{nil, path, "from-file", ""},
		{map[string]string{"CALICO_NODENAME_FILE": path}, none, "from-file", ""},
		{nil, none, strings.ToLower(host), ""},
		{map[string]string{"NODENAME": "a/b"}, path, "", "NODENAME"},
	} {
		got, err := NodeName(func(name string) string { return tc.env[name] }, tc.file)
		if tc.says == "" && (err != nil || got != tc.want) || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%v: %q, %v", tc.env, got, err)
		}
	}
}

func TestMetricsAreServedAsUpstreamDoes(t *testing.T) {
	c, problems := Resolve()
	if len(problems) > 0 || c.MetricsEnabled || c.MetricsAddress != ":9091" || !c.GoMetrics || !c.ProcessMetrics {
		t.Errorf("defaults: %+v, %v", c, problems)
	}
	c, problems = Resolve(FromEnv([]string{
		"FELIX_PROMETHEUSMETRICSENABLED=true", "FELIX_PROMETHEUSMETRICSPORT=9191", "FELIX_PROMETHEUSMETRICSHOST=127.0.0.1",
		"FELIX_PROMETHEUSGOMETRICSENABLED=false", "FELIX_PROMETHEUSPROCESSMETRICSENABLED=false",
	}))
	if len(problems) > 0 || !c.MetricsEnabled || c.MetricsAddress != "127.0.0.1:9191" || c.GoMetrics || c.ProcessMetrics {
		t.Errorf("got %+v, %v", c, problems)
	}
}

func TestSettingsOfWhatPodsMayHaveAreServed(t *testing.T) {
	c, problems := Resolve(resource(t, "default", func(s *v3.FelixConfigurationSpec) {
		yes, floating := true, v3.FloatingIPsEnabled
		s.WorkloadSourceSpoofing, s.FloatingIPs = "Any", &floating
		s.AllowVXLANPacketsFromWorkloads, s.AllowIPIPPacketsFromWorkloads = &yes, &yes
	}))
	if want := (Sources{Any: true, VXLAN: true, IPIP: true}); c.Sources != want || !c.FloatingIPs || len(problems) != 0 {
		t.Errorf("%+v, floating %v, problems %v", c.Sources, c.FloatingIPs, problems)
	}
	if c, _ := Resolve(); c.Sources != (Sources{}) || c.FloatingIPs {
		t.Errorf("default %+v, floating %v", c.Sources, c.FloatingIPs)
	}
	_, problems = Resolve(FromEnv([]string{"FELIX_WORKLOADSOURCESPOOFING=Some"}))
	if len(problems) != 1 || !strings.Contains(problems[0].String(), `"Some" is neither Any nor Disabled`) {
		t.Errorf("problems %v", problems)
	}
}
