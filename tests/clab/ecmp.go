package clab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// uplinks are a leaf's devices towards the spines.
func uplinks() []string { return []string{"eth1", "eth2"} }

// route is one line of `ip -json route`, with one next hop or several.
type route struct {
	Dst      string    `json:"dst"`
	Dev      string    `json:"dev"`
	NextHops []nextHop `json:"nexthops"`
}

type nextHop struct {
	Dev string `json:"dev"`
}

// devices are those that packets of the route leave by.
func (r route) devices() []string {
	if len(r.NextHops) == 0 {
		return []string{r.Dev}
	}
	var devs []string
	for _, h := range r.NextHops {
		devs = append(devs, h.Dev)
	}
	slices.Sort(devs)
	return devs
}

// upwards are the routes to any of the addresses that leave by an uplink; the error
// names one that does not leave by all of them.
func upwards(routes []route, addrs []netip.Addr) (int, error) {
	n := 0
	for _, r := range routes {
		p, err := netip.ParsePrefix(r.Dst)
		if err != nil || !slices.ContainsFunc(addrs, p.Contains) {
			continue // a default route, a single address, or nobody's
		}
		devs := r.devices()
		if !slices.ContainsFunc(devs, func(d string) bool { return slices.Contains(uplinks(), d) }) {
			continue // in this rack
		}
		if !slices.Equal(devs, uplinks()) {
			return n, fmt.Errorf("the route to %s leaves by %s and not by both spines", r.Dst, strings.Join(devs, ", "))
		}
		n++
	}
	return n, nil
}

// Spread says how the leaves' routes and packets are spread over the spines.
type Spread struct {
	Leaf   string
	Routes int // to pods in other racks, each by both spines
	Sent   []uint64
}

// leaves are the leaves of the lab; none in one that has no fabric.
func (l *Lab) leaves() []string {
	var leaves []string
	for _, name := range l.Programs["frr"] {
		if strings.HasPrefix(name, "leaf") {
			leaves = append(leaves, name)
		}
	}
	return leaves
}

// Spreads looks at every leaf. It is an error when the pods of another rack can't be
// reached by both spines.
func (l *Lab) Spreads(ctx context.Context) ([]Spread, error) {
	var all []Spread
	for _, leaf := range l.leaves() {
		s := Spread{Leaf: leaf}
		for _, family := range []string{"-4", "-6"} {
			n, err := l.upwards(ctx, leaf, family)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", leaf, err)
			}
			s.Routes += n
		}
		for _, dev := range uplinks() {
			out, err := l.docker.Exec(ctx, l.container(leaf), "cat", "/sys/class/net/"+dev+"/statistics/tx_packets")
			if err != nil {
				return nil, err
			}
			var sent uint64
			if _, err := fmt.Sscan(out, &sent); err != nil {
				return nil, fmt.Errorf("%s: packets sent by %s: %w", leaf, dev, err)
			}
			s.Sent = append(s.Sent, sent)
		}
		all = append(all, s)
	}
	return all, nil
}

// upwards counts a leaf's routes of one family to the pods of other racks; there must
// be one at least.
func (l *Lab) upwards(ctx context.Context, leaf, family string) (int, error) {
	out, err := l.docker.Exec(ctx, l.container(leaf), "ip", "-json", family, "route", "show")
	if err != nil {
		return 0, err
	}
	var routes []route
	if err := json.Unmarshal([]byte(out), &routes); err != nil {
		return 0, fmt.Errorf("ip route: %w", err)
	}
	var addrs []netip.Addr
	for _, p := range l.pods {
		addrs = append(addrs, p.V4, p.V6)
	}
	n, err := upwards(routes, addrs)
	if err == nil && n == 0 {
		err = fmt.Errorf("no route to the pods of another rack (ip %s route)", family)
	}
	return n, err
}
