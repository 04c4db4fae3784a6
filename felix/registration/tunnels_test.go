package registration

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/calc"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
	"tortie/ipam"
)

// site is a node with Tunnels over the real allocator.
type site struct {
	*node
	tracker   *ipam.Tracker
	allocator *ipam.Allocator
	tunnels   *Tunnels
	prepared  []string
	refuse    error // what Prepare answers
	stop      func()
}

func newSite(t *testing.T) *site {
	s := &site{node: newNode(t, nil), tracker: ipam.NewTracker("node1")}
	by := &api.Node{Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: "10.10.1.1/24", IPv6Address: "fd10::1/64"}}}
	by.Name = "node1"
	s.put(by)
	s.allocator = ipam.New(ipam.Config{Client: s.store, Node: "node1", View: s.tracker})
	s.start()
	return s
}

// start starts Tunnels as a felix that knows nothing does.
func (s *site) start() {
	s.tunnels = NewTunnels(TunnelConfig{
		Node: "node1", Client: s.store, Registry: api.NewRegistry(), Addresses: s.allocator, Forget: func(overlay.Carrier, bool) {},
		Prepare: func(ctx context.Context, by overlay.Carrier, end overlay.End) error {
			e, err := s.store.Get(ctx, api.Key{Kind: api.KindNode, Name: "node1"})
			if err != nil {
				return err
			}
			addr := end.Tunnel
			if by == overlay.IPIP {
				addr = end.IPIP.Tunnel
			}
			// Nobody may have been told of the address yet.
			spec := e.Object.(*api.Node).Spec
			if slices.Contains([]string{spec.IPv4VXLANTunnelAddr, spec.IPv6VXLANTunnelAddr, spec.BGP.IPv4IPIPTunnelAddr}, addr.String()) {
				s.Errorf("%s was published before its device was made", addr)
			}
			s.prepared = append(s.prepared, addr.String())
			return s.refuse
		},
		Log: slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan error, 1)
	go func() { done <- s.tunnels.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
	}
}

func inSite(t *testing.T, test func(*site)) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		test(s)
		s.stop()
		s.allocator.Close()
	})
}

// pools gives the cluster these pools with VXLAN, and tells the Tunnels.
func (s *site) pools(cidrs ...string) {
	s.Helper()
	s.poolsBy(overlay.VXLAN, cidrs...)
}

func (s *site) poolsBy(by overlay.Carrier, cidrs ...string) {
	s.Helper()
	var all []calc.TunnelPool
	var updates []datastore.SyncUpdate
	for _, cidr := range cidrs {
		pool := v3.NewIPPool()
		pool.Name = strings.NewReplacer(".", "-", "/", "-", ":", "-").Replace(cidr)
		pool.Spec = v3.IPPoolSpec{CIDR: cidr, VXLANMode: v3.VXLANModeAlways}
		if by == overlay.IPIP {
			pool.Spec = v3.IPPoolSpec{CIDR: cidr, IPIPMode: v3.IPIPModeAlways}
		}
		api.NewRegistry().Default(pool)
		s.put(pool)
		key := api.Key{Kind: api.KindIPPool, Name: pool.Name}
		updates = append(updates, datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: pool}})
		all = append(all, calc.TunnelPool{Prefix: netip.MustParsePrefix(cidr), Open: true, By: by})
	}
	node := s.stored()
	key := api.Key{Kind: api.KindNode, Name: "node1"}
	s.tracker.Apply(append(updates, datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: node}}))
	s.tunnels.Want(all, nil, netip.Addr{}, nil)
}

func after(d time.Duration) {
	time.Sleep(d) // virtual: the bubble's clock jumps
	synctest.Wait()
}

func (s *site) held(handle ipam.HandleID) string {
	s.Helper()
	addrs, err := ipam.AddressesOf(s.Context(), s.store, handle)
	if err != nil {
		s.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

const (
	handle4 = "vxlan-tunnel-addr-node1"
	handle6 = "vxlan-v6-tunnel-addr-node1"
)

func TestTunnelAddressIsAssignedAsUpstreamDoesAndPublished(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16", "fd65::/48")
		after(time.Second)
		spec := s.stored().Spec
		if got := s.held(handle4); got == "" || got != spec.IPv4VXLANTunnelAddr {
			t.Errorf("IPv4: the handle holds %q, the Node says %q", got, spec.IPv4VXLANTunnelAddr)
		}
		if got := s.held(handle6); got == "" || got != spec.IPv6VXLANTunnelAddr {
			t.Errorf("IPv6: the handle holds %q, the Node says %q", got, spec.IPv6VXLANTunnelAddr)
		}
		if spec.VXLANTunnelMACAddr != overlay.DefaultMAC("node1", false).String() || spec.VXLANTunnelMACAddrV6 != overlay.DefaultMAC("node1", true).String() {
			t.Errorf("MAC addresses %q and %q", spec.VXLANTunnelMACAddr, spec.VXLANTunnelMACAddrV6)
		}
		for addr, kind := range map[string]string{spec.IPv4VXLANTunnelAddr: "vxlanTunnelAddress", spec.IPv6VXLANTunnelAddr: "vxlanV6TunnelAddress"} {
			info, err := ipam.Lookup(t.Context(), s.store, netip.MustParseAddr(addr))
			if err != nil || info.Attrs[api.AttributeType] != kind || info.Attrs[api.AttributeNode] != "node1" {
				t.Errorf("%s: %v %v, want the type %s", addr, info.Attrs, err, kind)
			}
		}
		if spec.BGP.IPv4Address != "10.10.1.1/24" {
			t.Error("what others wrote into the Node is gone")
		}
	})
}

// TestIPIPTunnelAddressComesAndGoesAsThatOfVXLANDoes, beside it.
func TestIPIPTunnelAddressComesAndGoesAsThatOfVXLANDoes(t *testing.T) {
	const handle = "ipip-tunnel-addr-node1"
	inSite(t, func(s *site) {
		s.poolsBy(overlay.IPIP, "10.65.0.0/16")
		after(time.Second)
		addr := s.stored().Spec.BGP.IPv4IPIPTunnelAddr
		if addr == "" || s.held(handle) != addr || s.stored().Spec.IPv4VXLANTunnelAddr != "" || s.stored().Spec.BGP.IPv4Address != "10.10.1.1/24" {
			t.Fatalf("the handle holds %q; the Node: %+v %+v", s.held(handle), s.stored().Spec, s.stored().Spec.BGP)
		}
		info, err := ipam.Lookup(t.Context(), s.store, netip.MustParseAddr(addr))
		if err != nil || info.Attrs[api.AttributeType] != "ipipTunnelAddress" || info.Attrs[api.AttributeNode] != "node1" {
			t.Errorf("%s: %v %v", addr, info.Attrs, err)
		}
		s.pools("10.65.0.0/16") // the mode is another
		after(time.Second)
		if spec := s.stored().Spec; spec.BGP.IPv4IPIPTunnelAddr != addr || spec.IPv4VXLANTunnelAddr == "" || spec.IPv4VXLANTunnelAddr == addr {
			t.Errorf("right after: IPIP %q, VXLAN %q", spec.BGP.IPv4IPIPTunnelAddr, spec.IPv4VXLANTunnelAddr)
		}
		after(tunnelGrace + time.Second)
		if spec := s.stored().Spec; spec.BGP.IPv4IPIPTunnelAddr != "" || s.held(handle) != "" || spec.IPv4VXLANTunnelAddr == "" {
			t.Errorf("later: IPIP %q, the handle holds %q, VXLAN %q", spec.BGP.IPv4IPIPTunnelAddr, s.held(handle), spec.IPv4VXLANTunnelAddr)
		}
	})
}

func TestTunnelAddressOutlivesFelix(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16")
		after(time.Second)
		before := s.stored()
		s.stop()
		s.start()
		s.pools("10.65.0.0/16")
		after(time.Hour)
		if after := s.stored(); after.Spec.IPv4VXLANTunnelAddr != before.Spec.IPv4VXLANTunnelAddr || after.ResourceVersion != before.ResourceVersion {
			t.Errorf("%s was %s; the Node was written again", after.Spec.IPv4VXLANTunnelAddr, before.Spec.IPv4VXLANTunnelAddr)
		}
	})
}

func TestTunnelAddressIsReleasedWhenNoPoolAsksForLong(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16", "fd65::/48")
		after(time.Second)
		addr := s.stored().Spec.IPv4VXLANTunnelAddr
		s.pools("fd65::/48")
		after(tunnelGrace - 2*time.Second)
		s.pools("10.65.0.0/16", "fd65::/48") // changed their mind
		after(time.Hour)
		if got := s.stored().Spec.IPv4VXLANTunnelAddr; got != addr {
			t.Fatalf("the address is %q, want that of before, %s", got, addr)
		}
		s.pools("fd65::/48")
		after(tunnelGrace + time.Second)
		spec := s.stored().Spec
		if spec.IPv4VXLANTunnelAddr != "" || spec.VXLANTunnelMACAddr != "" || s.held(handle4) != "" {
			t.Errorf("IPv4 left: %q %q %q", spec.IPv4VXLANTunnelAddr, spec.VXLANTunnelMACAddr, s.held(handle4))
		}
		if spec.IPv6VXLANTunnelAddr == "" || s.held(handle6) == "" {
			t.Error("IPv6 went, too")
		}
	})
}

func TestTunnelAddressThatComesBackWithoutAPoolIsTakenOutAgain(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16")
		after(time.Second)
		backup := s.stored()
		s.pools()
		after(tunnelGrace + time.Second)
		if got := s.stored().Spec.IPv4VXLANTunnelAddr; got != "" {
			t.Fatalf("the address is %q, want none", got)
		}
		n := s.stored().DeepCopyObject().(*api.Node)
		n.Spec = backup.Spec
		s.put(n)
		s.tunnels.Want(nil, []overlay.Tunnel{{Here: overlay.ReadNode("node1", &n.Spec).V4}}, netip.Addr{}, nil)
		after(time.Second)
		if got := s.stored().Spec.IPv4VXLANTunnelAddr; got != "" {
			t.Errorf("%q is back in the Node and stays", got)
		}
	})
}

func TestTunnelAddressThatIPAMHasLostIsAssignedAgain(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16")
		after(time.Second)
		if _, err := ipam.ReleaseHandle(t.Context(), s.store, handle4); err != nil {
			t.Fatal(err)
		}
		after(lookAgain)
		if got := s.stored().Spec.IPv4VXLANTunnelAddr; got == "" || s.held(handle4) != got {
			t.Errorf("the Node says %q, the handle holds %q", got, s.held(handle4))
		}
	})
}

func TestTunnelAddressIsAnotherWhenItsPoolIsGone(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16")
		after(time.Second)
		old := s.stored().Spec.IPv4VXLANTunnelAddr
		s.pools("10.66.0.0/16")
		after(time.Second)
		got := s.stored().Spec.IPv4VXLANTunnelAddr
		if want := old + " " + got; s.held(handle4) != want {
			t.Errorf("the handle holds %q, want %q: the device has the old address until felix hears of the new one", s.held(handle4), want)
		}
		shown := overlay.Tunnel{Here: overlay.ReadNode("node1", &s.stored().Spec).V4}
		s.tunnels.Want([]calc.TunnelPool{{Prefix: netip.MustParsePrefix("10.66.0.0/16"), Open: true, By: overlay.VXLAN}}, []overlay.Tunnel{shown}, netip.Addr{}, nil)
		after(time.Second)
		if info, err := ipam.Lookup(t.Context(), s.store, netip.MustParseAddr(old)); err != nil || info.Assigned {
			t.Errorf("the old address: %v %v", info, err)
		}
		if !strings.HasPrefix(got, "10.66.") || s.held(handle4) != got {
			t.Errorf("address %q, the handle holds %q", got, s.held(handle4))
		}
	})
}

func TestTunnelAddressThatSomebodyErasedOrMadeUpIsPutRight(t *testing.T) {
	inSite(t, func(s *site) {
		s.pools("10.65.0.0/16")
		after(time.Second)
		want := s.stored().Spec.IPv4VXLANTunnelAddr
		for _, wrong := range []string{"", "10.65.200.200"} {
			n := s.stored().DeepCopyObject().(*api.Node)
			n.Spec.IPv4VXLANTunnelAddr = wrong
			s.put(n)
			shown := overlay.Tunnel{Here: overlay.ReadNode("node1", &n.Spec).V4}
			s.tunnels.Want([]calc.TunnelPool{{Prefix: netip.MustParsePrefix("10.65.0.0/16"), Open: true, By: overlay.VXLAN}}, []overlay.Tunnel{shown}, netip.Addr{}, nil)
			after(time.Second)
			if got := s.stored().Spec.IPv4VXLANTunnelAddr; got != want {
				t.Errorf("after %q it is %q, want %q", wrong, got, want)
			}
		}
	})
}

func TestTunnelThatCannotBeIsSaidOnceAndTriedAgain(t *testing.T) {
	inSite(t, func(s *site) {
		s.refuse = errors.New("out of luck")
		s.pools("10.65.0.0/16")
		after(time.Minute)
		if got := s.stored().Spec.IPv4VXLANTunnelAddr; got != "" {
			t.Errorf("%s is published without a device", got)
		}
		if n := strings.Count(s.log.String(), "out of luck"); n != 1 || len(s.prepared) < 3 {
			t.Errorf("said %d times, tried %d times:\n%s", n, len(s.prepared), &s.log)
		}
		s.refuse = nil
		after(time.Minute)
		if got := s.stored().Spec.IPv4VXLANTunnelAddr; got == "" || got != s.held(handle4) {
			t.Errorf("address %q, the handle holds %q", got, s.held(handle4))
		}
	})
}

func TestNodeWithoutAnAddressOfTheFamilyHasNoTunnel(t *testing.T) {
	inSite(t, func(s *site) {
		n := s.stored().DeepCopyObject().(*api.Node)
		n.Spec.BGP.IPv6Address = ""
		s.put(n)
		s.pools("fd65::/48", "10.65.0.0/16")
		after(time.Minute)
		if spec := s.stored().Spec; spec.IPv6VXLANTunnelAddr != "" || s.held(handle6) != "" || spec.IPv4VXLANTunnelAddr == "" {
			t.Errorf("IPv6 %q, IPv4 %q", spec.IPv6VXLANTunnelAddr, spec.IPv4VXLANTunnelAddr)
		}
		if !strings.Contains(s.log.String(), "this node has no IPv6 address for it") {
			t.Errorf("it is not said:\n%s", &s.log)
		}
	})
}
