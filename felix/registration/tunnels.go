package registration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	Prepare func(ctx context.Context, by overlay.Carrier, end overlay.End) error
	Forget  func(by overlay.Carrier, v6 bool)
	Log     *slog.Logger
}

// Tunnels keep the addresses of the node's tunnels: assigned from an IP pool that asks
// for them, written into the Node once a device is there, and given back when no
// pool asks any more. An address outlives felix.
type Tunnels struct {
	last
	cfg   TunnelConfig
	write *datastore.Resources
	kick  chan struct{}

	mu     sync.Mutex
	pools  []calc.TunnelPool
	stored map[tunnelID]netip.Addr // as the Node has them

	idle map[tunnelID]*idleTunnel
}

// tunnelID tells a node's tunnels apart.
type tunnelID struct {
	by overlay.Carrier
	v6 bool
}

// tunnelIDs are all that there can be.
func tunnelIDs() []tunnelID {
	return []tunnelID{{overlay.VXLAN, false}, {overlay.VXLAN, true}, {overlay.IPIP, false}, {overlay.WireGuard, false}, {overlay.WireGuard, true}}
}

// String is the kind and the version of IP.
func (id tunnelID) String() string { return fmt.Sprintf("%s (%s)", id.by, version(id.v6)) }

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
		kick: make(chan struct{}, 1), idle: map[tunnelID]*idleTunnel{},
	}
}

// Want tells from which pools the node has its tunnel addresses, and those that the
// Node shows, of VXLAN, of IPIP and of WireGuard.
func (t *Tunnels) Want(pools []calc.TunnelPool, vxlan []overlay.Tunnel, ipip netip.Addr, secure []calc.SecureTunnel) {
	stored := map[tunnelID]netip.Addr{}
	for _, tunnel := range vxlan {
		stored[tunnelID{overlay.VXLAN, tunnel.Here.Tunnel.Is6()}] = tunnel.Here.Tunnel
	}
	if ipip.IsValid() {
		stored[tunnelID{overlay.IPIP, false}] = ipip
	}
	for _, tunnel := range secure {
		addr := tunnel.Here.Secure.Tunnel
		stored[tunnelID{overlay.WireGuard, addr.Is6()}] = addr
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pools != nil && slices.Equal(t.pools, pools) && maps.Equal(t.stored, stored) {
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
	switch recovered, failing := t.note(err); {
	case recovered:
		t.cfg.Log.Info("the addresses of the node's tunnels are as they should be again")
	case failing:
		t.cfg.Log.Warn("the addresses of the node's tunnels are not as they should be; trying again", "err", err)
	}
}

// lookAgain is how often a tunnel that is as it should be is looked at: nobody tells of
// an address that IPAM has lost, and it may be given to a pod.
const lookAgain = 5 * time.Minute

// never is long enough for a timer that another event resets.
const never = 24 * time.Hour

// reconcile sees to each tunnel and returns when to come again.
func (t *Tunnels) reconcile(ctx context.Context) (again time.Duration, err error) {
	t.mu.Lock()
	all, stored := t.pools, t.stored
	t.mu.Unlock()
	again = never
	for _, id := range tunnelIDs() {
		var pools []calc.TunnelPool
		for _, p := range all {
			if p.By == id.by && p.Prefix.Addr().Is6() == id.v6 {
				pools = append(pools, p)
			}
		}
		if len(pools) > 0 {
			delete(t.idle, id)
			again = min(again, lookAgain)
			err = errors.Join(err, t.ensure(ctx, tunnelOf(t.cfg.Node, id), pools))
			continue
		}
		if idle := t.idle[id]; idle != nil && idle.gone && stored[id].IsValid() {
			idle.gone = false // it has come back, with a restored datastore
		}
		wait, failed := t.retire(ctx, tunnelOf(t.cfg.Node, id))
		again, err = min(again, wait), errors.Join(err, failed)
	}
	return again, err
}

// tunnel is what upstream calls things of a tunnel.
type tunnel struct {
	tunnelID
	handle ipam.HandleID
	kind   string // in the address's attributes
	mac    string // empty where there is none
}

func tunnelOf(node string, id tunnelID) tunnel {
	t := tunnel{tunnelID: id}
	switch {
	case id.by == overlay.IPIP:
		t.handle, t.kind = ipam.HandleID("ipip-tunnel-addr-"+node), "ipipTunnelAddress"
		return t
	case id.by == overlay.WireGuard && id.v6:
		t.handle, t.kind = ipam.HandleID("wireguard-v6-tunnel-addr-"+node), "wireguardV6TunnelAddress"
		return t
	case id.by == overlay.WireGuard:
		t.handle, t.kind = ipam.HandleID("wireguard-tunnel-addr-"+node), "wireguardTunnelAddress"
		return t
	case id.v6:
		t.handle, t.kind = ipam.HandleID("vxlan-v6-tunnel-addr-"+node), "vxlanV6TunnelAddress"
	default:
		t.handle, t.kind = ipam.HandleID("vxlan-tunnel-addr-"+node), "vxlanTunnelAddress"
	}
	t.mac = overlay.DefaultMAC(node, id.v6).String()
	return t
}

// fields are where a Node has the tunnel. A MAC address of IPIP is nowhere.
func (t tunnel) fields(spec *api.NodeSpec) (addr, mac *string) {
	switch {
	case t.by == overlay.IPIP:
		if spec.BGP == nil {
			spec.BGP = &api.NodeBGPSpec{}
		}
		return &spec.BGP.IPv4IPIPTunnelAddr, new(string)
	case t.by == overlay.WireGuard:
		if spec.Wireguard == nil {
			spec.Wireguard = &api.NodeWireguardSpec{}
		}
		if t.v6 {
			return &spec.Wireguard.InterfaceIPv6Address, new(string)
		}
		return &spec.Wireguard.InterfaceIPv4Address, new(string)
	case t.v6:
		return &spec.IPv6VXLANTunnelAddr, &spec.VXLANTunnelMACAddrV6
	}
	return &spec.IPv4VXLANTunnelAddr, &spec.VXLANTunnelMACAddr
}

// end is the tunnel's as the Node has it, and its address.
func (t tunnel) end(node string, spec *api.NodeSpec) (end overlay.End, addr netip.Addr) {
	n := overlay.ReadNode(node, spec)
	switch {
	case t.by == overlay.IPIP:
		return n.V4, n.V4.IPIP.Tunnel
	case t.by == overlay.WireGuard && t.v6:
		return n.V6, n.V6.Secure.Tunnel
	case t.by == overlay.WireGuard:
		return n.V4, n.V4.Secure.Tunnel
	case t.v6:
		return n.V6, n.V6.Tunnel
	}
	return n.V4, n.V4.Tunnel
}

// ensure has the tunnel's address assigned, the device made, and the Node say so.
func (t *Tunnels) ensure(ctx context.Context, tun tunnel, pools []calc.TunnelPool) error {
	_, node, err := t.node(ctx)
	if err != nil {
		return err
	}
	end, shown := tun.end(t.cfg.Node, &node.Spec)
	if !end.Address.IsValid() {
		return fmt.Errorf("IP pool %s asks for %s, and this node has no %s address for it: set IP, IP6 or spec.bgp of the Node, "+
			"or exclude the node by the pool's nodeSelector", pools[0].Prefix, tun.by, version(tun.v6))
	}
	addr, err := t.assigned(ctx, tun, shown, pools)
	if err != nil {
		return err
	}
	if addr == shown {
		return t.releaseOthers(ctx, tun, addr)
	}
	switch tun.by {
	case overlay.IPIP:
		end.IPIP.Tunnel = addr
	case overlay.WireGuard:
		end.Secure.Tunnel = addr
	default:
		end.Tunnel = addr
	}
	if err := t.cfg.Prepare(ctx, tun.by, end); err != nil {
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
		return netip.Addr{}, fmt.Errorf("no IP pool with %s gives out %s addresses for tunnels: enable one, with Tunnel among its allowedUses", tun.by, version(tun.v6))
	case tun.v6:
		req.Num6, req.Pools6 = 1, open
	default:
		req.Num4, req.Pools4 = 1, open
	}
	got, err := t.cfg.Addresses.AutoAssign(ctx, req)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("assign a tunnel address for %s: %w", tun, err)
	}
	t.cfg.Log.Info("tunnel address assigned", "tunnel", tun, "addr", got[0].Addr, "pool", got[0].Pool)
	return got[0].Addr, nil
}

// releaseOthers gives back what the node had for the tunnel before addr, once felix has
// heard that the Node shows addr: until then the device has the old one, and a pod that
// got it would lose its packets to the node.
func (t *Tunnels) releaseOthers(ctx context.Context, tun tunnel, addr netip.Addr) error {
	t.mu.Lock()
	heard := t.stored[tun.tunnelID] == addr
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
	t.cfg.Log.Info("former tunnel addresses released", "tunnel", tun, "addrs", others)
	return nil
}

// retire takes the tunnel out of the Node, and gives its address back, when no pool
// has asked for it for a while.
func (t *Tunnels) retire(ctx context.Context, tun tunnel) (again time.Duration, err error) {
	idle := t.idle[tun.tunnelID]
	if idle == nil {
		idle = &idleTunnel{since: time.Now()}
		t.idle[tun.tunnelID] = idle
	}
	if idle.gone {
		return never, nil
	}
	if wait := tunnelGrace - time.Since(idle.since); wait > 0 {
		return wait, nil
	}
	t.cfg.Forget(tun.by, tun.v6)
	if err := t.publish(ctx, tun, netip.Addr{}); err != nil && !errors.Is(err, datastore.ErrNotFound) {
		return never, err
	}
	released, err := t.cfg.Addresses.ReleaseByHandle(ipam.WithReason(ctx, "no IP pool asks for a tunnel of this node"), tun.handle)
	if err != nil {
		return never, err
	}
	for _, a := range released {
		t.cfg.Log.Info("tunnel address released: no IP pool asks for it", "tunnel", tun, "addr", a)
	}
	idle.gone = true
	return never, nil
}

// node reads the Node as it is stored, and a copy to change.
func (t *Tunnels) node(ctx context.Context) (stored datastore.Entry, node *api.Node, err error) {
	return readNode(ctx, t.cfg.Client, t.cfg.Node)
}

func readNode(ctx context.Context, client datastore.Client, name string) (stored datastore.Entry, node *api.Node, err error) {
	stored, err = client.Get(ctx, api.Key{Kind: api.KindNode, Name: name})
	if err != nil {
		return stored, nil, fmt.Errorf("read node %s: %w", name, err)
	}
	node, ok := stored.Object.DeepCopyObject().(*api.Node)
	if !ok {
		return stored, nil, fmt.Errorf("read node %s: it holds a %T", name, stored.Object)
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
		return fmt.Errorf("write the tunnel address for %s into node %s: %w", tun, t.cfg.Node, err)
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
			*mac = tun.mac
		}
	default:
		*address = ""
		if *mac == tun.mac {
			*mac = ""
		}
	}
	if *address == before && *mac == beforeMAC {
		return nil
	}
	if node.Spec.Wireguard != nil && *node.Spec.Wireguard == (api.NodeWireguardSpec{}) {
		node.Spec.Wireguard = nil
	}
	e.Object = node
	_, err = t.write.Update(ctx, e)
	return err
}
