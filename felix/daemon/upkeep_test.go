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
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/knftables"

	"tortie/felix/calc"
	"tortie/felix/hostports"
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

func (m menders) Mend(hostIf string, _ []netip.Addr) ([]string, error) {
	mended := m[hostIf]
	delete(m, hostIf)
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

// TestRulesThatSomebodyChangesAreLookedAtOnceASecondAtMost: and again after the kernel has
// ended to tell.
func TestRulesThatSomebodyChangesAreLookedAtOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{}, 1)
		looks := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- followRules(ctx, func(context.Context) (<-chan struct{}, error) { return told, nil }, func() { looks++ })
		}()
		told <- struct{}{}
		synctest.Wait()
		if looks != 1 {
			t.Errorf("%d looks, want one at once", looks)
		}
		for range 50 {
			select {
			case told <- struct{}{}:
			default:
			}
			time.Sleep(100 * time.Millisecond)
		}
		if looks < 5 || looks > 6 {
			t.Errorf("%d looks in five seconds of changes", looks)
		}
		former := told
		told = make(chan struct{}, 1)
		close(former)
		time.Sleep(3 * time.Second)
		before := looks
		told <- struct{}{}
		synctest.Wait()
		if looks != before+1 {
			t.Error("it is not asked again")
		}
		cancel()
		close(told)
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
