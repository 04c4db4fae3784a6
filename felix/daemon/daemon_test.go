package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/felix/config"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
	"tortie/internal/lockfile"
	"tortie/internal/overlay"
)

func TestSecondFelixIsRefusedByName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico", "felix.lock")
	release, err := lockfile.Acquire(path, "felix")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	var log bytes.Buffer
	err = Run(t.Context(), Process{Version: "test", Environ: []string{"NODENAME=n", "ETCD_ENDPOINTS=http://127.0.0.1:1", "FELIX_LOCKFILE=" + path}, Log: &log})
	if err == nil || !strings.HasPrefix(err.Error(), "another felix (pid ") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

func TestRunRefusesBadConfigurationInOneLine(t *testing.T) {
	dir := t.TempDir()
	lock, socket := "FELIX_LOCKFILE="+filepath.Join(dir, "lock"), "FELIX_CNISOCKET="+filepath.Join(dir, "felix.sock")
	for name, tc := range map[string]struct {
		env  []string
		says string
	}{
		"mistyped parameter": {[]string{"NODENAME=n", "FELIX_HEALTPORT=1"}, "did you mean HealthPort?"},
		"bad value":          {[]string{"NODENAME=n", "FELIX_HEALTHPORT=x"}, "FELIX_HEALTHPORT"},
		"node with a slash":  {[]string{"NODENAME=a/b"}, "NODENAME"},
		"no such datastore":  {[]string{"NODENAME=n", "ETCD_ENDPOINTS=ftp://a"}, "ftp://a"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			err := Run(context.Background(), Process{Version: "test", Environ: append(tc.env, lock, socket), Log: &log})
			if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestDatastoreMayStandInFelixsOwnVariables(t *testing.T) {
	p := Process{Environ: []string{"FELIX_ETCDENDPOINTS=http://a:2379", "FELIX_ETCDCAFILE=/ca", "ETCD_CA_CERT_FILE=/other"}}
	get := p.datastoreEnv([]config.Layer{config.FromEnv(p.Environ)})
	for name, want := range map[string]string{"ETCD_ENDPOINTS": "http://a:2379", "ETCD_CA_CERT_FILE": "/other", "ETCD_KEY_FILE": "", "ETCD_USERNAME": ""} {
		if got := get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestRangesDoNotOverlap(t *testing.T) {
	got := ranges(
		[]datastore.Range{{Kind: api.KindNode, NamePrefix: "node1"}, {Kind: api.KindIPPool}},
		[]datastore.Range{{Kind: api.KindNode}, {Kind: api.KindWorkloadEndpoint, Namespace: "ns1"}},
		[]datastore.Range{{Kind: api.KindIPPool}, {Kind: api.KindWorkloadEndpoint}, {Kind: api.KindBlockAffinity, NamePrefix: "host:a/"}, {Kind: api.KindBlockAffinity, NamePrefix: "host:b/"}},
	)
	want := []datastore.Range{
		{Kind: api.KindIPPool},
		{Kind: api.KindNode},
		{Kind: api.KindWorkloadEndpoint, Delay: endpointDelay},
		{Kind: api.KindBlockAffinity, NamePrefix: "host:a/"},
		{Kind: api.KindBlockAffinity, NamePrefix: "host:b/"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
}

func TestNothingIsProgrammedBeforeInSync(t *testing.T) {
	var events []string
	running, _ := config.Resolve()
	s := &sink{
		graph:     calc.New("node1"),
		config:    newConfigFollower("node1", nil, running, slog.New(slog.DiscardHandler)),
		configure: func(config.Config) { events = append(events, "configure") },
		program:   func(calc.State) { events = append(events, "program") },
		complete:  func() { events = append(events, "complete") },
		onStatus:  func(s datastore.Status) { events = append(events, s.String()) },
	}
	s.OnStatus(datastore.WaitForDatastore)
	s.OnUpdates(nil)
	s.OnStatus(datastore.Resync)
	s.OnUpdates(nil)
	s.OnStatus(datastore.InSync)
	s.OnUpdates([]datastore.SyncUpdate{{Key: api.Key{Kind: api.KindWorkloadEndpoint, Namespace: "ns1", Name: "of-another-node"}}})
	s.OnUpdates([]datastore.SyncUpdate{{Key: api.Key{Kind: api.KindIPPool, Name: "pool"}}})
	s.OnUpdates([]datastore.SyncUpdate{stored("default", func(c *v3.FelixConfigurationSpec) { c.IPForwarding = "Disabled" })})
	// CNI calls are served only when the whole state has been handed over.
	want := []string{"wait-for-datastore", "resync", "program", "complete", "in-sync", "program", "configure", "program"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestProblemIsLoggedOnceForAsLongAsItLasts(t *testing.T) {
	var out bytes.Buffer
	p := problemLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	one := calc.Problem{Key: api.Key{Kind: api.KindIPPool, Name: "one"}, Reason: "bad"}
	other := calc.Problem{Key: api.Key{Kind: api.KindIPPool, Name: "other"}, Reason: "bad"}
	p.report([]calc.Problem{one})
	p.report([]calc.Problem{one, other})
	p.report([]calc.Problem{one, other})
	if n := strings.Count(out.String(), "IPPool(one)"); n != 1 {
		t.Errorf("reported %d times while it lasts, want 1:\n%s", n, out.String())
	}
	out.Reset()
	p.report([]calc.Problem{other})
	p.report([]calc.Problem{other})
	if log := out.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, `msg="a problem with an object is gone" object=IPPool(one)`) {
		t.Errorf("when it is gone the log says %s", log)
	}
	out.Reset()
	p.report([]calc.Problem{one, other})
	if n := strings.Count(out.String(), "IPPool(one)"); n != 1 {
		t.Errorf("reported %d times after it came back, want 1", n)
	}
}

func TestPodsGetTheLowestMTUOfTheNodesDevices(t *testing.T) {
	p := netip.MustParsePrefix
	k := &devices{
		links: []kernel.Link{{Index: 1, Name: "lo", MTU: 65536, Up: true}, {Index: 2, Name: "eth0", MTU: 9000, Up: true}, {Index: 3, Name: "eth1", MTU: 1400, Up: true}, {Index: 4, Name: "docker0", MTU: 1280, Up: true}, {Index: 5, Name: "eth9", MTU: 576}},
		addrs: []kernel.Address{
			{Link: 1, Prefix: p("127.0.0.1/8")}, {Link: 2, Prefix: p("10.0.0.1/24")}, {Link: 3, Prefix: p("fd00::1/64")}, {Link: 4, Prefix: p("172.17.0.1/16")},
		},
	}
	for _, tc := range []struct {
		what    string
		node    []netip.Prefix
		pattern string
		want    int
		problem string
	}{
		{"no address", nil, "", 1500, ""},
		{"one", []netip.Prefix{p("10.0.0.1/24")}, "", 9000, ""},
		{"two", []netip.Prefix{p("10.0.0.1/32"), p("fd00::1/64")}, "", 1400, ""},
		{"on no device", []netip.Prefix{p("192.0.2.1/24")}, "", 1500, ""},
		{"these devices", []netip.Prefix{p("10.0.0.1/24")}, "^eth.*", 1400, ""},
		{"no such device", []netip.Prefix{p("10.0.0.1/24")}, "^wlan", 9000, `mtuIfacePattern "^wlan" matches no device`},
	} {
		u := &underlay{kernel: k, log: slog.New(slog.DiscardHandler)}
		u.configure(config.VXLAN{}, config.IPIP{}, config.Wireguard{}, config.MTU{Pattern: tc.pattern})
		u.set(tc.node, nil)
		if got := u.MTU(); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.what, got, tc.want)
		}
		if found := u.problems(); tc.problem == "" && len(found) > 0 || tc.problem != "" && (len(found) != 1 || !strings.Contains(found[0].Line, tc.problem)) {
			t.Errorf("%s: problems %v, want %q", tc.what, found, tc.problem)
		}
	}
}

func TestPodsMTUIsLessByWhatTheOverlaysInUseAdd(t *testing.T) {
	v4 := calc.TunnelPool{Prefix: netip.MustParsePrefix("10.65.0.0/16"), By: overlay.VXLAN}
	v6 := calc.TunnelPool{Prefix: netip.MustParsePrefix("fd65::/48"), By: overlay.VXLAN}
	ipip := calc.TunnelPool{Prefix: netip.MustParsePrefix("10.66.0.0/16"), By: overlay.IPIP}
	for _, tc := range []struct {
		name                   string
		tunnels                []calc.TunnelPool
		vxlan                  config.VXLAN
		pods, device4, device6 int
		problem                string
		ipip                   config.IPIP
		ipipDevice             int
	}{
		{"none", nil, config.VXLAN{}, 9000, 8950, 8930, "", config.IPIP{}, 8980},
		{"IPv4", []calc.TunnelPool{v4}, config.VXLAN{}, 8950, 8950, 8930, "", config.IPIP{}, 8980},
		{"both", []calc.TunnelPool{v4, v6}, config.VXLAN{}, 8930, 8950, 8930, "", config.IPIP{}, 8980},
		{"as configured", []calc.TunnelPool{v4, v6}, config.VXLAN{MTU4: 1400, MTU6: 8000}, 1400, 1400, 8000, "", config.IPIP{}, 8980},
		{"configured for one that is not in use", []calc.TunnelPool{v6}, config.VXLAN{MTU4: 1400}, 8930, 1400, 8930, "", config.IPIP{}, 8980},
		{"configured too large", []calc.TunnelPool{v4}, config.VXLAN{MTU4: 8951}, 8950, 8950, 8930, "vxlanMTU 8951 is more than the node's device eth0 carries whole (MTU 9000, less 50 for VXLAN): 8950 is used; lower it to that, or leave it out", config.IPIP{}, 8980},
		{"configured too large for IPv6", nil, config.VXLAN{MTU6: 8940}, 9000, 8950, 8930, "vxlanMTUV6 8940 is more", config.IPIP{}, 8980},
		{"IPIP", []calc.TunnelPool{ipip}, config.VXLAN{}, 8980, 8950, 8930, "", config.IPIP{}, 8980},
		{"IPIP beside VXLAN", []calc.TunnelPool{ipip, v4}, config.VXLAN{}, 8950, 8950, 8930, "", config.IPIP{}, 8980},
		{"IPIP as configured", []calc.TunnelPool{ipip}, config.VXLAN{}, 1400, 8950, 8930, "", config.IPIP{MTU: 1400}, 1400},
		{"IPIP too large", nil, config.VXLAN{}, 9000, 8950, 8930, "ipipMTU 8981 is more than the node's device eth0 carries whole (MTU 9000, less 20 for IPIP): 8980 is used", config.IPIP{MTU: 8981}, 8980},
	} {
		u := &underlay{kernel: nineThousand(), log: slog.New(slog.DiscardHandler)}
		u.configure(tc.vxlan, tc.ipip, config.Wireguard{}, config.MTU{})
		u.set([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, tc.tunnels)
		if u.MTU() != tc.pods || u.tunnelMTU(false) != tc.device4 || u.tunnelMTU(true) != tc.device6 || u.ipipMTU() != tc.ipipDevice {
			t.Errorf("%s: pods %d, devices %d, %d and %d; want %d, %d, %d and %d", tc.name, u.MTU(), u.tunnelMTU(false), u.tunnelMTU(true), u.ipipMTU(), tc.pods, tc.device4, tc.device6, tc.ipipDevice)
		}
		if found := u.problems(); tc.problem == "" && len(found) > 0 || tc.problem != "" && (len(found) != 1 || !strings.Contains(found[0].Line, tc.problem)) {
			t.Errorf("%s: problems %v, want %q", tc.name, found, tc.problem)
		}
	}
}

// TestMTUOfTheUnderlayIsFollowed: soon where the kernel tells, else at the next look.
func TestMTUOfTheUnderlayIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "calico", "mtu")
		k := nineThousand()
		var looks atomic.Int64
		u := &underlay{kernel: k, file: file, changed: func() { looks.Add(1) }, log: slog.New(slog.DiscardHandler)}
		u.set([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- u.run(ctx) }()
		is := func(want int, wantLooks int64) {
			t.Helper()
			synctest.Wait()
			text, err := os.ReadFile(file)
			if u.MTU() != want || err != nil || string(text) != strconv.Itoa(want) || looks.Load() != wantLooks {
				t.Errorf("MTU %d, file %q (%v), overlays looked at %d times; want %d, %d times", u.MTU(), text, err, looks.Load(), want, wantLooks)
			}
		}
		is(9000, 1)
		k.set(1400)
		before := k.reads
		for range 20 { // as where containers of another network come and go
			k.events <- kernel.LinkEvent{}
		}
		is(9000, 1)
		time.Sleep(underlayGather)
		is(1400, 2)
		if k.reads != before+1 {
			t.Errorf("the devices were read %d times for one burst of events, want once", k.reads-before)
		}
		k.set(1300)
		is(1400, 2)
		time.Sleep(underlayRefresh)
		is(1300, 3)
		close(k.events) // the kernel says nothing more: it is asked again
		synctest.Wait()
		time.Sleep(underlayRefresh)
		k.set(1500)
		time.Sleep(underlayRefresh)
		is(1500, 4)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMTUFileThatIsRequiredIsWaitedFor(t *testing.T) {
	for _, require := range []bool{false, true} {
		dir := t.TempDir()
		u := &underlay{kernel: nineThousand(), file: filepath.Join(dir, "file", "mtu"), log: slog.New(slog.DiscardHandler)}
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil { // in the way of the directory
			t.Fatal(err)
		}
		u.configure(config.VXLAN{}, config.IPIP{}, config.Wireguard{}, config.MTU{RequireFile: require})
		u.set([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, nil)
		if err := u.ready(); (err != nil) != require || err != nil && !strings.Contains(err.Error(), "FELIX_MTUFILE") || len(u.problems()) != map[bool]int{true: 1}[require] {
			t.Errorf("required %v: ready %v, problems %v", require, err, u.problems())
		}
		if err := os.Remove(filepath.Join(dir, "file")); err != nil {
			t.Fatal(err)
		}
		u.refresh()
		if err := u.ready(); err != nil || len(u.problems()) > 0 {
			t.Errorf("when it can be written: %v, %v", err, u.problems())
		}
	}
}

// devices are those of a node.
type devices struct {
	mu     sync.Mutex
	links  []kernel.Link
	addrs  []kernel.Address
	events chan kernel.Event
	reads  int // of links
}

func (d *devices) Links() ([]kernel.Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	return slices.Clone(d.links), nil
}

func (d *devices) Addresses(int) ([]kernel.Address, error) { return d.addrs, nil }

func (d *devices) SubscribeExcept(context.Context, kernel.Topics, kernel.Ignore) (<-chan kernel.Event, error) {
	return d.events, nil
}

func (d *devices) set(mtu int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links[0].MTU = mtu
}

// nineThousand is a node with one device.
func nineThousand() *devices {
	return &devices{
		links:  []kernel.Link{{Index: 2, Name: "eth0", MTU: 9000, Up: true}},
		addrs:  []kernel.Address{{Link: 2, Prefix: netip.MustParsePrefix("10.0.0.1/24")}},
		events: make(chan kernel.Event),
	}
}

// stored is the update of a FelixConfiguration; without a change it is gone.
func stored(name string, change func(*v3.FelixConfigurationSpec)) datastore.SyncUpdate {
	u := datastore.SyncUpdate{Key: api.Key{Kind: api.KindFelixConfiguration, Name: name}}
	if change != nil {
		r := v3.NewFelixConfiguration()
		r.Name = name
		change(&r.Spec)
		u.Entry = &datastore.Entry{Key: u.Key, Object: r}
	}
	return u
}

func newFollower(t *testing.T) *configFollower {
	running, _ := config.Resolve()
	return newConfigFollower("node1", []config.Layer{config.FromEnv([]string{"FELIX_VXLANPORT=8472"})}, running, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

func TestConfigurationFollowsTheDatastore(t *testing.T) {
	f := newFollower(t)
	severity := func(s string) func(*v3.FelixConfigurationSpec) {
		return func(c *v3.FelixConfigurationSpec) { c.LogSeverityScreen = s }
	}
	for _, step := range []struct {
		what    string
		update  datastore.SyncUpdate
		changed bool
		level   slog.Level
	}{
		{"for all nodes", stored("default", severity("Warning")), true, slog.LevelWarn},
		{"for this one", stored("node.node1", severity("Debug")), true, slog.LevelDebug},
		{"for another one", stored("node.node2", severity("Error")), false, slog.LevelDebug},
		{"of no effect here", stored("default", severity("Error")), false, slog.LevelDebug},
		{"no more for this one", stored("node.node1", nil), true, slog.LevelError},
		{"no more at all", stored("default", nil), true, slog.LevelInfo},
	} {
		f.Apply([]datastore.SyncUpdate{step.update})
		if changed := f.resolve(); changed != step.changed && step.what != "for all nodes" || f.Now().LogLevel != step.level || f.Now().VXLAN.Port != 8472 {
			t.Errorf("%s: changed %v, %+v; want %v and level %v", step.what, changed, f.Now(), step.changed, step.level)
		}
	}
}

// TestFieldThatCanNotBeUsedIsKnownByItsName wherever it stands, until it is corrected.
func TestFieldThatCanNotBeUsedIsKnownByItsName(t *testing.T) {
	f := newFollower(t)
	vni := func(n int) datastore.SyncUpdate {
		return stored("node.node1", func(c *v3.FelixConfigurationSpec) { c.VXLANVNI = &n })
	}
	for _, step := range []struct {
		vni  int
		want string
	}{
		{1 << 24, `FelixConfiguration node.node1: spec.vxlanVNI: "16777216" is not within 1 to 16777215; what is configured elsewhere, or the default, holds instead`},
		{7, ""},
	} {
		f.Apply([]datastore.SyncUpdate{vni(step.vni)})
		f.resolve()
		if got := f.wrong("vxlanVNI"); got != step.want || f.wrong("vxlanPort") != "" {
			t.Errorf("VNI %d: %q, want %q", step.vni, got, step.want)
		}
	}
}

func TestNothingOfTheConfigurationCountsBeforeItIsWhole(t *testing.T) {
	f := newFollower(t)
	f.Apply([]datastore.SyncUpdate{stored("node.node1", func(c *v3.FelixConfigurationSpec) { c.IPForwarding = "Disabled" })})
	if !f.Now().IPForwarding {
		t.Error("a part of the configuration is in force")
	}
	f.resolve()
	if f.Now().IPForwarding {
		t.Error("the configuration is not in force")
	}
}

// TestUnreadableConfigurationIsSaidAndTakesNothingElseAway: of one wrong field, that
// field; of a resource that is no JSON any more, nothing.
func TestUnreadableConfigurationIsSaidAndTakesNothingElseAway(t *testing.T) {
	f := newFollower(t)
	key := api.Key{Kind: api.KindFelixConfiguration, Name: "default"}
	broken := func(value string) {
		f.Apply([]datastore.SyncUpdate{{Key: key, Invalid: &datastore.Invalid{Key: key, Err: errors.New("no"), Value: []byte(value)}}})
		f.resolve()
	}
	says := func(want ...string) {
		t.Helper()
		found := f.problems()
		for i, line := range want {
			if len(found) != len(want) || found[i].Reason != "BadConfiguration" || !strings.Contains(found[i].Line, line) {
				t.Fatalf("problems %v, want %q", found, want)
			}
		}
		if len(want) == 0 && len(found) > 0 {
			t.Fatalf("problems %v", found)
		}
	}
	broken(`{"spec":{"vxlanVNI":16777216,"routeRefreshInterval":"30s"}}`)
	says(`FelixConfiguration default: spec.vxlanVNI: "16777216" is not within 1 to 16777215; what is configured elsewhere, or the default, holds instead`)
	if c := f.Now(); c.VXLAN.VNI != 4096 || c.RouteRefreshInterval != 30*time.Second {
		t.Errorf("one wrong field: %+v", c)
	}
	broken(`{"spec":{"routeRef`)
	says("read FelixConfiguration default: unexpected end of JSON input: what it said before holds on", "spec.vxlanVNI")
	if c := f.Now(); c.RouteRefreshInterval != 30*time.Second {
		t.Errorf("no JSON: %+v", c)
	}
	f.Apply([]datastore.SyncUpdate{stored("default", nil)})
	f.resolve()
	says()
	if c := f.Now(); c.RouteRefreshInterval != 90*time.Second {
		t.Errorf("gone: %+v", c)
	}
}
