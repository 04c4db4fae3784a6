package registration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
	"tortie/ipam"
)

// Addresses gives out IP addresses; *ipam.Allocator does.
type Addresses interface {
	AutoAssign(ctx context.Context, req ipam.Request) ([]ipam.Assignment, error)
	ReleaseByHandle(ctx context.Context, handle ipam.HandleID) ([]netip.Addr, error)
	Release(ctx context.Context, handle ipam.HandleID, addrs []netip.Addr) error
	ByHandle(ctx context.Context, handle ipam.HandleID) ([]netip.Addr, error)
}

// TunnelConfig is what Tunnels work with; all of it is required.
type TunnelConfig struct {
	Node      string
	Client    datastore.Client
	Registry  *api.Registry
	Addresses Addresses
	// Prepare makes the device of an end that is about to be published: other nodes
	// send to a tunnel address as soon as it stands in the Node. A device that is in use
	// keeps its address until the Node says another. Forget undoes it.
	Prepare func(ctx context.Context, end overlay.End) error
	Forget  func(v6 bool)
	Log     *slog.Logger
}

// Tunnels keep the node's VXLAN tunnel addresses: assigned from an IP pool that asks
// for them, written into the Node once a device is there, and given back when no
// pool asks any more. An address outlives felix.
type Tunnels struct {
	cfg   TunnelConfig
	write *datastore.Resources
	kick  chan struct{}

	mu     sync.Mutex
	failed error // of the last attempt
	pools  []calc.TunnelPool
	stored []overlay.End // as the Node has them

	idle map[bool]*idleTunnel // by: is it IPv6
}

// idleTunnel is one that no pool asks for.
type idleTunnel struct {
	since time.Time
	gone  bool // nothing is left of it
}

// tunnelGrace is for how long no pool may ask for a tunnel before it is taken down: a
// node that is slow to hear of a pool's new mode still sends into it.
const tunnelGrace = 30 * time.Second

// NewTunnels makes Tunnels; Run starts them, once Want has said something.
func NewTunnels(cfg TunnelConfig) *Tunnels {
	return &Tunnels{
		cfg: cfg, write: datastore.NewResources(cfg.Client, cfg.Registry, nil),
		kick: make(chan struct{}, 1), idle: map[bool]*idleTunnel{},
	}
}

// Want tells from which pools the node has its tunnel addresses, and those that the
// Node shows.
func (t *Tunnels) Want(pools []calc.TunnelPool, shown []overlay.Tunnel) {
	var stored []overlay.End
	for _, tunnel := range shown {
		stored = append(stored, tunnel.Here)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pools != nil && slices.Equal(t.pools, pools) && slices.Equal(t.stored, stored) {
		return
	}
	t.pools, t.stored = append([]calc.TunnelPool{}, pools...), stored
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// Run makes what is in the datastore as wanted until ctx ends. While it can't, it goes
// on trying and says so once.
func (t *Tunnels) Run(ctx context.Context) error {
	due := time.NewTimer(retryMax)
	due.Stop()
	defer due.Stop()
	pause := retryMin
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.kick:
		case <-due.C:
		}
		again, err := t.reconcile(ctx)
		if ctx.Err() != nil {
			return nil
		}
		t.say(err)
		if err == nil {
			pause = retryMin
		} else {
			again = min(again, pause)
			pause = min(2*pause, retryMax)
		}
		due.Reset(again)
	}
}

// say logs what is wrong when that is news, and its end.
func (t *Tunnels) say(err error) {
	t.mu.Lock()
	before := t.failed
	t.failed = err
	t.mu.Unlock()
	switch {
	case err == nil && before != nil:
		t.cfg.Log.Info("the node's VXLAN tunnel addresses are as they should be again")
	case err != nil && (before == nil || before.Error() != err.Error()):
		t.cfg.Log.Warn("the node's VXLAN tunnel addresses are not as they should be; trying again", "err", err)
	}
}

// Problem is why the last attempt failed; nil when it didn't.
func (t *Tunnels) Problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// lookAgain is how often a tunnel that is as it should be is looked at: nobody tells of
// an address that IPAM has lost, and it may be given to a pod.
const lookAgain = 5 * time.Minute

// never is long enough for a timer that another event resets.
const never = 24 * time.Hour

// reconcile sees to both versions of IP and returns when to come again.
func (t *Tunnels) reconcile(ctx context.Context) (again time.Duration, err error) {
	t.mu.Lock()
	all, stored := t.pools, t.stored
	t.mu.Unlock()
	again = never
	for _, v6 := range []bool{false, true} {
		var pools []calc.TunnelPool
		for _, p := range all {
			if p.Prefix.Addr().Is6() == v6 {
				pools = append(pools, p)
			}
		}
		if len(pools) > 0 {
			delete(t.idle, v6)
			again = min(again, lookAgain)
			err = errors.Join(err, t.ensure(ctx, tunnelOf(t.cfg.Node, v6), pools))
			continue
		}
		if idle := t.idle[v6]; idle != nil && idle.gone && slices.ContainsFunc(stored, func(e overlay.End) bool { return e.Tunnel.Is6() == v6 }) {
			idle.gone = false // it has come back, with a restored datastore
		}
		wait, failed := t.retire(ctx, tunnelOf(t.cfg.Node, v6))
		again, err = min(again, wait), errors.Join(err, failed)
	}
	return again, err
}

// tunnel is what upstream calls things of one version of IP.
type tunnel struct {
	v6     bool
	handle ipam.HandleID
	kind   string // in the address's attributes
	mac    overlay.MAC
}

func tunnelOf(node string, v6 bool) tunnel {
	t := tunnel{v6: v6, handle: ipam.HandleID("vxlan-tunnel-addr-" + node), kind: "vxlanTunnelAddress", mac: overlay.DefaultMAC(node, v6)}
	if v6 {
		t.handle, t.kind = ipam.HandleID("vxlan-v6-tunnel-addr-"+node), "vxlanV6TunnelAddress"
	}
	return t
}

// fields are where a Node has the tunnel.
func (t tunnel) fields(spec *api.NodeSpec) (addr, mac *string) {
	if t.v6 {
		return &spec.IPv6VXLANTunnelAddr, &spec.VXLANTunnelMACAddrV6
	}
	return &spec.IPv4VXLANTunnelAddr, &spec.VXLANTunnelMACAddr
}

func (t tunnel) end(node string, spec *api.NodeSpec) overlay.End {
	n := overlay.ReadNode(node, spec)
	if t.v6 {
		return n.V6
	}
	return n.V4
}

// ensure has the tunnel's address assigned, the device made, and the Node say so.
func (t *Tunnels) ensure(ctx context.Context, tun tunnel, pools []calc.TunnelPool) error {
	_, node, err := t.node(ctx)
	if err != nil {
		return err
	}
	stored := tun.end(t.cfg.Node, &node.Spec)
	if !stored.Address.IsValid() {
		return fmt.Errorf("IP pool %s asks for VXLAN, and this node has no %s address for it: set IP6 or spec.bgp of the Node, "+
			"or exclude the node by the pool's nodeSelector", pools[0].Prefix, version(tun.v6))
	}
	addr, err := t.assigned(ctx, tun, stored.Tunnel, pools)
	if err != nil {
		return err
	}
	if addr == stored.Tunnel {
		return t.releaseOthers(ctx, tun, addr)
	}
	end := stored
	end.Tunnel = addr
	if err := t.cfg.Prepare(ctx, end); err != nil {
		return err
	}
	return t.publish(ctx, tun, addr)
}

func version(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// assigned is the address that the node has for the tunnel, or now gets: what it shows
// already if that is its own and in a pool that still asks for it.
func (t *Tunnels) assigned(ctx context.Context, tun tunnel, shown netip.Addr, pools []calc.TunnelPool) (netip.Addr, error) {
	held, err := t.cfg.Addresses.ByHandle(ctx, tun.handle)
	if err != nil {
		return netip.Addr{}, err
	}
	fits := func(a netip.Addr) bool {
		return slices.ContainsFunc(pools, func(p calc.TunnelPool) bool { return p.Prefix.Contains(a) })
	}
	if slices.Contains(held, shown) && fits(shown) {
		return shown, nil
	}
	if i := slices.IndexFunc(held, fits); i >= 0 {
		return held[i], nil
	}
	req := ipam.Request{
		Handle: tun.handle, Use: v3.IPPoolAllowedUseTunnel,
		Attrs: map[string]string{api.AttributeNode: t.cfg.Node, api.AttributeType: tun.kind},
	}
	var open []string
	for _, p := range pools {
		if p.Open {
			open = append(open, p.Prefix.String())
		}
	}
	switch {
	case len(open) == 0:
		return netip.Addr{}, fmt.Errorf("no IP pool with VXLAN gives out %s addresses for tunnels: enable one, with Tunnel among its allowedUses", version(tun.v6))
	case tun.v6:
		req.Num6, req.Pools6 = 1, open
	default:
		req.Num4, req.Pools4 = 1, open
	}
	got, err := t.cfg.Addresses.AutoAssign(ctx, req)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("assign a VXLAN tunnel address: %w", err)
	}
	t.cfg.Log.Info("VXLAN tunnel address assigned", "addr", got[0].Addr, "pool", got[0].Pool)
	return got[0].Addr, nil
}

// releaseOthers gives back what the node had for the tunnel before addr, once felix has
// heard that the Node shows addr: until then the device has the old one, and a pod that
// got it would lose its packets to the node.
func (t *Tunnels) releaseOthers(ctx context.Context, tun tunnel, addr netip.Addr) error {
	t.mu.Lock()
	heard := slices.ContainsFunc(t.stored, func(e overlay.End) bool { return e.Tunnel == addr })
	t.mu.Unlock()
	if !heard {
		return nil
	}
	held, err := t.cfg.Addresses.ByHandle(ctx, tun.handle)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(held, func(a netip.Addr) bool { return a == addr })
	if len(others) == 0 {
		return nil
	}
	if err := t.cfg.Addresses.Release(ipam.WithReason(ctx, "the tunnel has another address"), tun.handle, others); err != nil {
		return err
	}
	t.cfg.Log.Info("former VXLAN tunnel addresses released", "addrs", others)
	return nil
}

// retire takes the tunnel out of the Node, and gives its address back, when no pool
// has asked for it for a while.
func (t *Tunnels) retire(ctx context.Context, tun tunnel) (again time.Duration, err error) {
	idle := t.idle[tun.v6]
	if idle == nil {
		idle = &idleTunnel{since: time.Now()}
		t.idle[tun.v6] = idle
	}
	if idle.gone {
		return never, nil
	}
	if wait := tunnelGrace - time.Since(idle.since); wait > 0 {
		return wait, nil
	}
	t.cfg.Forget(tun.v6)
	if err := t.publish(ctx, tun, netip.Addr{}); err != nil && !errors.Is(err, datastore.ErrNotFound) {
		return never, err
	}
	released, err := t.cfg.Addresses.ReleaseByHandle(ipam.WithReason(ctx, "no IP pool asks for a tunnel of this node"), tun.handle)
	if err != nil {
		return never, err
	}
	for _, a := range released {
		t.cfg.Log.Info("VXLAN tunnel address released: no IP pool asks for it", "addr", a)
	}
	idle.gone = true
	return never, nil
}

// node reads the Node as it is stored, and a copy to change.
func (t *Tunnels) node(ctx context.Context) (stored datastore.Entry, node *api.Node, err error) {
	stored, err = t.cfg.Client.Get(ctx, api.Key{Kind: api.KindNode, Name: t.cfg.Node})
	if err != nil {
		return stored, nil, fmt.Errorf("read node %s: %w", t.cfg.Node, err)
	}
	node, ok := stored.Object.DeepCopyObject().(*api.Node)
	if !ok {
		return stored, nil, fmt.Errorf("read node %s: it holds a %T", t.cfg.Node, stored.Object)
	}
	return stored, node, nil
}

// publish writes the tunnel into the Node; an invalid address takes it out. A MAC
// address that somebody chose stays.
func (t *Tunnels) publish(ctx context.Context, tun tunnel, addr netip.Addr) error {
	var err error
	for range maxRaces {
		if err = t.publishOnce(ctx, tun, addr); !errors.Is(err, datastore.ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write the VXLAN tunnel of node %s: %w", t.cfg.Node, err)
	}
	return nil
}

func (t *Tunnels) publishOnce(ctx context.Context, tun tunnel, addr netip.Addr) error {
	e, node, err := t.node(ctx)
	if err != nil {
		return err
	}
	address, mac := tun.fields(&node.Spec)
	before, beforeMAC := *address, *mac
	switch {
	case addr.IsValid():
		*address = addr.String()
		if *mac == "" {
			*mac = tun.mac.String()
		}
	default:
		*address = ""
		if *mac == tun.mac.String() {
			*mac = ""
		}
	}
	if *address == before && *mac == beforeMAC {
		return nil
	}
	e.Object = node
	_, err = t.write.Update(ctx, e)
	return err
}
