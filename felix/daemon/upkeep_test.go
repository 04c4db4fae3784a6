package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/knftables"

	"tortie/felix/calc"
	"tortie/felix/hostports"
	"tortie/felix/podnet"
	"tortie/felix/ruleset"
	"tortie/internal/kernel"
)

func noHostPorts() *hostports.Ports {
	return hostports.New(hostports.Config{NFT: knftables.NewFake(ruleset.Family, ruleset.Table)})
}

// settings are the sysctls of a node; err is what writing them fails with.
type settings struct {
	mu     sync.Mutex
	values map[string]string
	err    error
}

func (*settings) Links() ([]kernel.Link, error) { return nil, nil }

func (s *settings) Sysctl(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[name]
	if !ok {
		return "", kernel.ErrNotFound
	}
	return value, nil
}

func (s *settings) SetSysctls(all []kernel.Setting) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range all {
		if s.err != nil {
			return s.err
		}
		s.values[one.Name] = one.Value
	}
	return nil
}

// menders answer for each device what was mended, once.
type menders map[string][]string

func (m menders) Mend(a podnet.Attachment) ([]string, error) {
	mended := m[a.HostIf]
	delete(m, a.HostIf)
	return mended, nil
}

func TestForwardingThatWasSwitchedOffIsSwitchedOnAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		node := &settings{values: map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}}
		u := newUpkeep(node, menders{}, noHostPorts(), slog.New(slog.NewTextHandler(&out, nil)))
		u.forwarding = true
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- u.run(ctx) }()
		time.Sleep(91 * time.Second)
		synctest.Wait()
		if out.Len() > 0 {
			t.Errorf("log %s", &out)
		}
		if err := node.SetSysctls([]kernel.Setting{{Name: "ipv4/ip_forward", Value: "0"}}); err != nil {
			t.Error(err)
		}
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if value, _ := node.Sysctl("ipv4/ip_forward"); value != "1" {
			t.Error("forwarding stayed off")
		}
		if log := out.String(); strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, "net/ipv4/ip_forward=0") {
			t.Errorf("log %s", log)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestForwardingAndIntervalFollowTheConfiguration: at once, not when the former interval
// is over.
func TestForwardingAndIntervalFollowTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &settings{values: map[string]string{"ipv4/ip_forward": "0"}}
		u := newUpkeep(node, menders{}, noHostPorts(), slog.New(slog.DiscardHandler))
		u.configure(false, time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- u.run(ctx) }()
		forwards := func(want string) {
			t.Helper()
			synctest.Wait()
			if value, _ := node.Sysctl("ipv4/ip_forward"); value != want {
				t.Errorf("ip_forward %s, want %s", value, want)
			}
		}
		forwards("0")
		u.configure(true, 10*time.Second)
		forwards("1")
		if err := node.SetSysctls([]kernel.Setting{{Name: "ipv4/ip_forward", Value: "0"}}); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		forwards("1")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestForwardingThatCanNotBeSwitchedOnIsAProblem(t *testing.T) {
	node := &settings{values: map[string]string{"ipv4/ip_forward": "0"}, err: errors.New("read-only file system")}
	u := newUpkeep(node, menders{}, noHostPorts(), slog.New(slog.DiscardHandler))
	u.configure(true, time.Second)
	u.look(t.Context())
	if found := u.problems(); len(found) != 1 || !strings.Contains(found[0].Line, "make this node forward IPv4: read-only file system") {
		t.Errorf("problems %v", found)
	}
}

func TestForwardingIsLeftToTheOperatorWhereItIsHis(t *testing.T) {
	node := &settings{values: map[string]string{"ipv4/ip_forward": "0"}}
	u := newUpkeep(node, menders{}, noHostPorts(), slog.New(slog.DiscardHandler))
	u.look(t.Context())
	if node.values["ipv4/ip_forward"] != "0" {
		t.Error("forwarding was switched on")
	}
}

func TestChangedDevicesAndFailuresAreLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	node := &settings{values: map[string]string{"ipv4/ip_forward": "0"}, err: errors.New("read-only file system")}
	u := newUpkeep(node, menders{"cali00000000001": {"net/ipv4/conf/cali00000000001/rp_filter=0"}}, noHostPorts(), slog.New(slog.NewTextHandler(&out, nil)))
	u.configure(true, time.Second)
	id := calc.EndpointID{Namespace: "ns1", Name: "pod1"}
	u.setEndpoints(map[calc.EndpointID]calc.Endpoint{id: {ID: id, Interface: "cali00000000001"}})
	for range 3 {
		u.look(t.Context())
	}
	for _, says := range []string{"rp_filter=0", "read-only file system"} {
		if n := strings.Count(out.String(), says); n != 1 {
			t.Errorf("%q is said %d times in %s", says, n, &out)
		}
	}
}

// asked notes what is asked to be mended, and when.
type asked struct {
	mu  sync.Mutex
	all []podnet.Attachment
}

func (m *asked) Mend(a podnet.Attachment) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, a)
	return []string{"MTU 1300"}, nil
}

// TestDeviceThatSomebodyChangesIsMendedAtOnce as it was made, and no other; once a second
// at most, and not while a call is at work on it.
func TestDeviceThatSomebodyChangesIsMendedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods := &asked{}
		u := newUpkeep(&settings{}, pods, noHostPorts(), slog.New(slog.DiscardHandler))
		made := podnet.Attachment{HostIf: "cali00000000001", MTU: 1400, FromLoopback: true}
		u.attached = func(_ calc.EndpointID, hostIf string) (podnet.Attachment, bool) {
			made.HostIf = hostIf
			return made, hostIf != "cali00000000003"
		}
		endpoints := map[calc.EndpointID]calc.Endpoint{}
		for _, n := range []string{"1", "2", "3"} {
			id := calc.EndpointID{Namespace: "ns1", Name: "pod" + n}
			endpoints[id] = calc.Endpoint{ID: id, Interface: "cali0000000000" + n, Addrs: []netip.Addr{netip.MustParseAddr("10.65.0." + n)}}
		}
		u.setEndpoints(endpoints)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- u.runSuspects(ctx) }()
		u.suspect("cali00000000001")
		u.suspect("cali00000000003")
		u.suspect("cali00000000009")
		synctest.Wait()
		want := podnet.Attachment{HostIf: "cali00000000001", MTU: 1400, FromLoopback: true, Addrs: []netip.Addr{netip.MustParseAddr("10.65.0.1")}}
		if diff := cmp.Diff([]podnet.Attachment{want}, pods.all, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("mended (-want +got):\n%s", diff)
		}
		for range 50 {
			u.suspect("cali00000000002")
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := len(pods.all) - 1; n < 5 || n > 6 {
			t.Errorf("%d looks in five seconds of changes", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestWhatSomebodyChangesIsLookedAtOnceASecondAtMost: and again after the kernel has
// ended to tell.
func TestWhatSomebodyChangesIsLookedAtOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := make(chan struct{}, 1), make(chan struct{}, 1)
		asked := make(chan (<-chan struct{}), 2)
		asked <- first
		asked <- second
		var looks atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- followed{func(context.Context) (<-chan struct{}, error) { return <-asked, nil }, func() { looks.Add(1) }}.run(ctx)
		}()
		first <- struct{}{}
		synctest.Wait()
		if n := looks.Load(); n != 1 {
			t.Errorf("%d looks, want one at once", n)
		}
		for range 50 {
			select {
			case first <- struct{}{}:
			default:
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := looks.Load(); n < 5 || n > 6 {
			t.Errorf("%d looks in five seconds of changes", n)
		}
		close(first) // the kernel says no more
		time.Sleep(3 * time.Second)
		before := looks.Load()
		second <- struct{}{}
		synctest.Wait()
		if looks.Load() != before+1 {
			t.Error("it is not asked again")
		}
		cancel()
		close(second)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOwnProcessesAreKnown(t *testing.T) {
	child := exec.Command("cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if !isChild(uint32(child.Process.Pid)) {
		t.Error("a child is none")
	}
	_ = in.Close()
	_ = child.Wait()
	for what, pid := range map[string]int{"one that has ended": child.Process.Pid, "this one": os.Getpid(), "the first": 1, "none": 0} {
		if isChild(uint32(pid)) {
			t.Errorf("%s is a child", what)
		}
	}
}

// loose notes for which devices pods may send from others' addresses.
type loose map[string]bool

func (l loose) Mend(a podnet.Attachment) ([]string, error) {
	was := l[a.HostIf]
	l[a.HostIf] = a.ManySources
	if was == a.ManySources {
		return nil, nil
	}
	return []string{"rp_filter"}, nil
}

// TestDeviceFollowsWhatItsPodMaySend at once, and that is nobody's damage.
func TestDeviceFollowsWhatItsPodMaySend(t *testing.T) {
	var out bytes.Buffer
	devices := loose{}
	u := newUpkeep(&settings{}, devices, noHostPorts(), slog.New(slog.NewTextHandler(&out, nil)))
	id := calc.EndpointID{Namespace: "ns1", Name: "pod1"}
	ep := calc.Endpoint{ID: id, Interface: "cali00000000001"}
	for _, allowed := range [][]netip.Prefix{nil, {netip.MustParsePrefix("192.0.2.0/24")}, nil} {
		ep.Sources = allowed
		u.setEndpoints(map[calc.EndpointID]calc.Endpoint{id: ep})
		select {
		case <-u.kick:
			u.look(t.Context())
		default:
			if devices[ep.Interface] != (allowed != nil) {
				t.Error("nobody is told to look")
			}
		}
		if devices[ep.Interface] != (allowed != nil) {
			t.Errorf("allowed %v: the device is %v", allowed, devices)
		}
	}
	if out.Len() > 0 {
		t.Errorf("log %s", &out)
	}
	devices[ep.Interface] = true // somebody else's doing
	u.look(t.Context())
	if !strings.Contains(out.String(), "rp_filter") {
		t.Errorf("log %s", &out)
	}
}
