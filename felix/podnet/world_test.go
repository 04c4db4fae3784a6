package podnet_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

const ifName = "eth0"

// world is a node of its own, with a Net on it.
type world struct {
	testing.TB
	node *kernel.Handle
	ns   *kernel.Netns
	net  *podnet.Net
}

// newWorld makes a node whose Net works through wrap; nil for none.
func newWorld(t testing.TB, wrap func(*podnet.Config)) *world {
	t.Helper()
	kerneltest.Require(t, kerneltest.Veth, kerneltest.IPv6)
	ns := kerneltest.NewNetns(t)
	node := kerneltest.Open(t, ns)
	if err := podnet.EnsureForwarding(node); err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, node: node, ns: ns}
	cfg := podnet.Config{Log: slog.New(slog.DiscardHandler), Kernel: node}
	if wrap != nil {
		wrap(&cfg)
	}
	n, err := podnet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.net = n
	return w
}

// pod is a pod's namespace and a look into it.
type pod struct {
	*kernel.Handle
	ns   *kernel.Netns
	path string
}

// newPod makes a namespace as a runtime leaves it: the loopback is down.
func (w *world) newPod() pod {
	w.Helper()
	ns, err := kernel.CreateNetns()
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { ns.Close() })
	return pod{Handle: kerneltest.Open(w, ns), ns: ns, path: fmt.Sprintf("/proc/self/fd/%d", ns.Fd())}
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// attachment is the nth pod's, dual stack.
func attachment(p pod, n int) podnet.Attachment {
	return podnet.Attachment{
		Netns: p.path, IfName: ifName, HostIf: hostIf(n), MTU: 1450,
		Addrs: addrs(fmt.Sprintf("10.65.0.%d", n), fmt.Sprintf("fd00:65::%x", n)),
	}
}

func hostIf(n int) string { return fmt.Sprintf("cali%011x", n) }

// add wires a pod and gives it its routes, as the dataplane loop would.
func (w *world) add(a podnet.Attachment) podnet.Attached {
	w.Helper()
	got, err := w.net.Add(context.Background(), a)
	if err != nil {
		w.Fatal(err)
	}
	for _, ip := range a.Addrs {
		err := w.node.AddRoute(kernel.Route{
			Dst: netip.PrefixFrom(ip, ip.BitLen()), Protocol: kernel.ProtocolFelix,
			Scope: kernel.ScopeLink, Link: got.HostIndex,
		})
		if err != nil {
			w.Fatal(err)
		}
	}
	return got
}

// run starts the Net's Run; it ends with the test.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.net.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("run: %v", err)
		}
	})
}

// eventually waits for the kernel to come to a state, driven by its own events.
func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	events, err := w.node.Subscribe(ctx, kernel.LinkEvents)
	if err != nil {
		w.Fatal(err)
	}
	for !holds() {
		if _, ok := <-events; !ok {
			w.Fatalf("never: %s", what)
		}
	}
}

func (w *world) links(h *kernel.Handle) []string {
	w.Helper()
	links, err := h.Links()
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, l := range links {
		out = append(out, l.Name)
	}
	slices.Sort(out)
	return out
}

// picture is all that wiring can change in a namespace, as text. Routes of the
// kernel's own making come and go with links and are left out.
func (w *world) picture(h *kernel.Handle) string {
	w.Helper()
	var b strings.Builder
	links, err := h.Links()
	if err != nil {
		w.Fatal(err)
	}
	for _, l := range links {
		fmt.Fprintf(&b, "link %s up=%v mtu=%d\n", l.Name, l.Up, l.MTU)
	}
	as, err := h.Addresses(0)
	if err != nil {
		w.Fatal(err)
	}
	for _, a := range as {
		if !a.Prefix.Addr().IsLoopback() { // the kernel's own, and it stays when the loopback goes down
			fmt.Fprintf(&b, "address %s\n", a.Prefix)
		}
	}
	routes, err := h.Routes(context.Background(), kernel.RouteFilter{})
	if err != nil {
		w.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol != kernel.ProtocolKernel {
			fmt.Fprintf(&b, "route %s\n", r)
		}
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		v, err := h.Sysctl(name)
		if err != nil {
			w.Fatal(err)
		}
		fmt.Fprintf(&b, "%s=%s\n", name, v)
	}
	return b.String()
}
