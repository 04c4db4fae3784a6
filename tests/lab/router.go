package lab

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"tortie/bgpd/fib"
	"tortie/bgpd/filter"
	"tortie/bgpd/speaker"
	"tortie/bgpd/speaker/gobgp"
	"tortie/internal/kernel"
)

const (
	// restartTime is how long the router keeps a node's routes while its bgpd is away.
	restartTime = 2 * time.Minute
	// routerTick is how often the router looks at its links and its restart timers.
	routerTick = time.Second
)

// startRouter starts the BGP speaker of the router between the segments.
func (l *Lab) startRouter() error {
	topo, err := json.Marshal(l.st.Topology)
	if err != nil {
		return err
	}
	p, err := start(command{
		name: "router", path: l.bin("lab"), args: []string{"router", string(topo)},
		net: l.st.Holders[routerName].Netns(), log: filepath.Join(l.hostDir(routerName), "router.log"),
	})
	if err != nil {
		return err
	}
	return l.change(func(st *state) { st.Daemons["router/"+routerName] = p })
}

// RunRouter is the router's BGP speaker: an eBGP peer of every node that forwards
// to what it learns. It is the body of the hidden command `lab router`.
func RunRouter(ctx context.Context, t Topology) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	handle, err := kernel.Open()
	if err != nil {
		return err
	}
	defer handle.Close()
	leftover, err := fib.Leftover(ctx, handle)
	if err != nil {
		return err
	}
	s := gobgp.New(gobgp.Config{Restarting: leftover, Log: log})
	desired := routerDesired(t)
	table := fib.New(handle, log)
	table.Expect(desired.Peers, filter.Scope{}, time.Now())
	if err := s.Apply(ctx, desired); err != nil {
		return err
	}
	tick := time.NewTicker(routerTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.Changed():
			table.Update(s.Take(), time.Now())
		case <-tick.C:
		}
		if err := table.Read(ctx); err != nil {
			log.Warn("read the kernel", "err", err)
			continue
		}
		if err := table.Apply(ctx, time.Now()); err != nil {
			log.Warn("write routes", "err", err)
		}
	}
}

// routerDesired is the router's whole configuration: one session per node and
// family, from the router's address on the node's segment.
func routerDesired(t Topology) speaker.Desired {
	d := speaker.Desired{Global: speaker.Global{
		ASN: routerASN, RouterID: netip.AddrFrom4([4]byte{10, 10, 1, routerHost}), Port: 179, Transit: true,
		Listen: []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()},
	}}
	for _, n := range t.Nodes {
		s := t.Segment(n.Segment)
		for _, node := range n.Addresses() {
			d.Peers = append(d.Peers, speaker.Peer{
				Address: node.Addr(), ASN: nodeASN, LocalAddress: s.router(node.Addr()), RestartTime: restartTime,
				// Two sides that both connect refuse each other for a while after a restart.
				Passive: true,
			})
		}
	}
	return d
}
