package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/vishvananda/netlink"

	"tortie/internal/kernel"
	"tortie/tests/bench/carry"
	"tortie/tests/bench/probe"
	"tortie/tests/lab"
)

const (
	// wayMTU is that of all ways: what a VXLAN tunnel leaves of 1,500.
	wayMTU = 1450
	// wayMSS is what TCP over IPv4 with its time stamps sends in such a packet.
	wayMSS     = wayMTU - 52
	wayRounds  = 5
	streamTime = time.Second
	roundTrips = 1000
)

// ways measures what pods' ways carry, beside other ways on the same machine.
type ways struct {
	lab     *lab.Lab
	bin     string
	cleanup []func() error
}

// way is a named one with what was measured of it.
type way struct {
	carry.Way
	name   string
	rates  []float64 // Mbit/s
	trips  []float64 // µs, each the median of a round
	places []*kernel.Netns
}

// dataplane measures and prints them.
func dataplane(ctx context.Context, bin string, w io.Writer) (err error) {
	spec := lab.DefaultSpec()
	spec.Name, spec.Nodes = "benchways", 2
	l, err := lab.Up(ctx, spec, bin, func(step string) { fmt.Fprintln(os.Stderr, "…", step) })
	if err != nil {
		return err
	}
	m := &ways{lab: l, bin: bin}
	defer func() {
		slices.Reverse(m.cleanup)
		for _, undo := range m.cleanup {
			err = errors.Join(err, undo())
		}
		err = errors.Join(err, l.Down())
	}()
	all, err := m.plain(ctx)
	if err != nil {
		return err
	}
	step("streams and round trips between pods")
	if err := measureWays(ctx, all); err != nil {
		return err
	}
	tunnel, err := m.vxlan(ctx, all)
	if err != nil {
		return err
	}
	step("… by VXLAN")
	if err := measureWays(ctx, tunnel); err != nil {
		return err
	}
	printWays(w, all, tunnel)
	return nil
}

// plain makes the ways without encapsulation.
func (m *ways) plain(ctx context.Context) ([]*way, error) {
	our, err := ours(m.bin, map[string]any{"mtu": wayMTU})
	if err != nil {
		return nil, err
	}
	var out []*way
	for _, way := range []func() (*way, error){
		func() (*way, error) { return m.between(ctx, "same node", our, "node1") },
		func() (*way, error) { return m.bare() },
		func() (*way, error) { return m.between(ctx, "ptp", reference("ptp", "10.99.0.0/16"), "node1") },
		func() (*way, error) {
			return m.between(ctx, "bridge", reference("bridge", "10.98.0.0/16"), "node1")
		},
		func() (*way, error) { return m.between(ctx, "two nodes", our, "node2") },
		func() (*way, error) { return m.nodes() },
		func() (*way, error) { return m.across(ctx, "ptp, routes by hand", "ptp", "10.97", m.uplink) },
		func() (*way, error) { return m.across(ctx, "bridge, routes by hand", "bridge", "10.96", m.uplink) },
		func() (*way, error) { return m.across(ctx, "ptp, VXLAN by hand", "ptp", "10.95", m.tunnel) },
	} {
		w, err := way()
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// reference is a reference plugin, with host-local, and a bridge of its own where it makes
// one.
func reference(kind, subnet string) plugin {
	return plugin{path: "/usr/lib/cni/" + kind, conf: fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"ways-%[1]s-%[3]s","type":"%[1]s","mtu":%[2]d,
		"bridge":"br%[3]s","isGateway":true,"ipam":{"type":"host-local","subnet":"%[4]s","dataDir":"/run/host-local","routes":[{"dst":"0.0.0.0/0"}]}}`, kind, wayMTU, strings.TrimSuffix(strings.Split(subnet, "/")[0], ".0"), subnet)}
}

// across is the way between two new pods by a reference plugin, from node1 to node2, each
// with a subnet of its own that the other has a route to.
func (m *ways) across(ctx context.Context, name, kind, subnets string, route func(node, other string, subnet netip.Prefix) error) (*way, error) {
	var by []plugin
	nodes := []string{"node1", "node2"}
	for i, node := range nodes {
		by = append(by, reference(kind, fmt.Sprintf("%s.%d.0/24", subnets, i+1)))
		other := netip.MustParsePrefix(fmt.Sprintf("%s.%d.0/24", subnets, 2-i))
		if err := m.lab.In(node, func() error { return route(node, nodes[1-i], other) }); err != nil {
			return nil, fmt.Errorf("route from %s to %s: %w", node, other, err)
		}
	}
	return m.pods(ctx, name, by, nodes)
}

// uplink routes to another node's subnet by that node's address. It runs on the node.
func (m *ways) uplink(_, other string, subnet netip.Prefix) error {
	host, err := m.lab.Topology().Node(other)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(subnet), Gw: host.V4.Addr().AsSlice()})
}

// tunnel routes to another node's subnet by a VXLAN device between the two.
func (m *ways) tunnel(node, other string, subnet netip.Prefix) error {
	const name, vni, port = "byhand", 77, 4799
	here, hereErr := m.lab.Topology().Node(node)
	there, thereErr := m.lab.Topology().Node(other)
	if err := errors.Join(hereErr, thereErr); err != nil {
		return err
	}
	up, err := netlink.RouteGet(there.V4.Addr().AsSlice())
	if err != nil || len(up) == 0 {
		return fmt.Errorf("no route to %s: %w", other, err)
	}
	err = netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: wayMTU}, VxlanId: vni, Port: port, VtepDevIndex: up[0].LinkIndex,
		SrcAddr: here.V4.Addr().AsSlice(), Group: there.V4.Addr().AsSlice(),
	})
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	m.cleanup = append(m.cleanup, func() error { return m.lab.In(node, func() error { return netlink.LinkDel(link) }) })
	// Each end is asked for by ARP, once, through the tunnel.
	ends := map[string]string{"node1": "10.94.0.1", "node2": "10.94.0.2"}
	a := netip.MustParsePrefix(ends[node] + "/30")
	if err := errors.Join(netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(30, 32)}}), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(subnet), Gw: net.ParseIP(ends[other]), LinkIndex: link.Attrs().Index})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// between is the way between two new pods, by a plugin: from node1 to a node.
func (m *ways) between(ctx context.Context, name string, by plugin, to string) (*way, error) {
	return m.pods(ctx, name, []plugin{by, by}, []string{"node1", to})
}

func (m *ways) pods(ctx context.Context, name string, by []plugin, nodes []string) (*way, error) {
	out := &way{name: name}
	for i, node := range nodes {
		pod, err := m.lab.Sandbox(lab.PodSpec{Name: fmt.Sprintf("%s-%d", strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(name)), i), Node: node})
		if err != nil {
			return nil, err
		}
		m.cleanup = append(m.cleanup, func() error { return m.lab.RemoveSandbox(pod) })
		addr, err := m.add(by[i], node, pod)
		if err != nil {
			return nil, err
		}
		ns, err := m.open(pod.Pause.Netns())
		if err != nil {
			return nil, err
		}
		out.places = append(out.places, ns)
		out.At = addr
	}
	out.From, out.To = out.places[0].Do, out.places[1].Do
	var last error
	err := probe.Until(ctx, func() (bool, error) { // the other node learns of the block
		_, last = out.RoundTrips(ctx, 1)
		return last == nil, nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", name, errors.Join(err, last))
	}
	return out, err
}

// add runs a plugin's ADD and returns the address that it gave.
func (m *ways) add(p plugin, node string, pod *lab.Pod) (netip.Addr, error) {
	var out, errs bytes.Buffer
	if _, err := m.lab.Plugin(node, p.path, "ADD", pod, lab.Stdio{In: bytes.NewReader(p.conf), Out: &out, Err: &errs}); err != nil {
		return netip.Addr{}, fmt.Errorf("%s ADD: %w: %s%s", p.path, err, out.String(), errs.String())
	}
	m.cleanup = append(m.cleanup, func() error {
		_, err := m.lab.Plugin(node, p.path, "DEL", pod, lab.Stdio{In: bytes.NewReader(p.conf)})
		return err
	})
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil || len(result.IPs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s ADD: no address in %q: %w", p.path, out.String(), err)
	}
	return result.IPs[0].Address.Addr(), nil
}

func (m *ways) open(path string) (*kernel.Netns, error) {
	ns, err := kernel.OpenNetns(path)
	if err == nil {
		m.cleanup = append(m.cleanup, func() error { ns.Close(); return nil })
	}
	return ns, err
}

// bare is a veth pair between two namespaces and nothing else.
func (m *ways) bare() (*way, error) {
	out := &way{name: "bare veth pair", Way: carry.Way{At: netip.MustParseAddr("192.0.2.2")}}
	for range 2 {
		ns, err := kernel.CreateNetns()
		if err != nil {
			return nil, err
		}
		m.cleanup = append(m.cleanup, func() error { ns.Close(); return nil })
		out.places = append(out.places, ns)
	}
	out.From, out.To = out.places[0].Do, out.places[1].Do
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "way0", MTU: wayMTU}, PeerName: "way1", PeerNamespace: netlink.NsFd(out.places[1].Fd())}
	err := out.From(func() error { return netlink.LinkAdd(pair) })
	for i, place := range []carry.Place{out.From, out.To} {
		if err == nil {
			err = place(func() error { return addressed(fmt.Sprintf("way%d", i), fmt.Sprintf("192.0.2.%d/30", i+1)) })
		}
	}
	return out, err
}

func addressed(link, address string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetMTU(l, wayMTU), netlink.LinkSetUp(l))
}

// nodes is the way between the nodes themselves.
func (m *ways) nodes() (*way, error) {
	host, err := m.lab.Topology().Node("node2")
	return &way{name: "the nodes themselves", Way: carry.Way{
		From: func(fn func() error) error { return m.lab.In("node1", fn) },
		To:   func(fn func() error) error { return m.lab.In("node2", fn) },
		At:   host.V4.Addr(), MSS: wayMSS,
	}}, err
}

// vxlan has the pool's packets in tunnels, and gives the ways between nodes once more.
func (m *ways) vxlan(ctx context.Context, all []*way) ([]*way, error) {
	pods, nodes, byHand := all[4], all[5], all[8]
	var out bytes.Buffer
	err := m.lab.Exec("node1", []string{"calicoctl", "patch", "ippool", "pool-v4", "-p", `{"spec": {"vxlanMode": "Always"}}`}, lab.Stdio{Out: &out, Err: &out})
	if err != nil {
		return nil, fmt.Errorf("calicoctl patch: %w: %s", err, out.String())
	}
	err = probe.Until(ctx, func() (bool, error) {
		ok := false
		err := m.lab.In("node1", func() error {
			routes, err := netlink.RouteGet(pods.At.AsSlice())
			if err != nil || len(routes) == 0 {
				return err
			}
			link, err := netlink.LinkByIndex(routes[0].LinkIndex)
			ok = err == nil && strings.HasPrefix(link.Attrs().Name, "vxlan")
			return err
		})
		return ok, err
	})
	again := func(w *way, name string) *way { return &way{Way: w.Way, name: name} }
	return []*way{again(pods, "two nodes, VXLAN"), again(nodes, nodes.name), again(byHand, byHand.name)}, err
}

// measureWays measures all in turn, several times over.
func measureWays(ctx context.Context, all []*way) error {
	for range wayRounds {
		for _, w := range all {
			rate, err := w.Stream(ctx, streamTime)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			trips, err := w.RoundTrips(ctx, roundTrips)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			w.rates = append(w.rates, rate*8/1e6)
			w.trips = append(w.trips, float64(sample(trips).at(.5).Nanoseconds())/1000)
		}
	}
	return nil
}

// spread is the median with least and most.
func spread(values []float64) (median float64, s string) {
	sorted := slices.Sorted(slices.Values(values))
	median = sorted[len(sorted)/2]
	return median, fmt.Sprintf("%.0f (%.0f–%.0f)", median, sorted[0], sorted[len(sorted)-1])
}

func printWays(w io.Writer, plain, tunnel []*way) {
	t := table.NewWriter()
	t.SetTitle(fmt.Sprintf("pod to pod, MTU %d, IPv4; median (least–most) of %d rounds; ratio ours / theirs", wayMTU, wayRounds))
	t.AppendHeader(table.Row{"OURS", "BESIDE", "STREAM, MBIT/S", "THEIRS", "RATIO", "ROUND TRIP, µs", "THEIRS", "RATIO"})
	rows := [][2]*way{{plain[0], plain[1]}, {plain[0], plain[2]}, {plain[0], plain[3]}, {plain[4], plain[1]}, {plain[4], plain[5]}, {plain[4], plain[6]}, {plain[4], plain[7]}, {tunnel[0], tunnel[1]}, {tunnel[0], tunnel[2]}}
	for _, r := range rows {
		rate, rates := spread(r[0].rates)
		other, others := spread(r[1].rates)
		trip, trips := spread(r[0].trips)
		otherTrip, otherTrips := spread(r[1].trips)
		t.AppendRow(table.Row{
			r[0].name, r[1].name, rates, others, fmt.Sprintf("%.2f", rate/other),
			trips, otherTrips, fmt.Sprintf("%.2f", trip/otherTrip),
		})
	}
	fmt.Fprintln(w, t.Render())
}
