package gobgp

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"google.golang.org/protobuf/types/known/anypb"

	"tortie/bgpd/speaker"
)

const (
	holdTime = 90 * time.Second // RFC 4271 section 10
	// connectRetry is GoBGP's least. Its default of 120 s makes a peer that was down
	// for a moment stay away for minutes.
	connectRetry = time.Second
	// deferral is the Selection_Deferral_Timer of RFC 4724 section 4.1 in
	// seconds. Our exports are complete before any session is up, so there is
	// nothing to wait for: it is the least that GoBGP can express (0 means 360).
	deferral = 1
	// maxRestartTime is what the 12 bits of RFC 4724 section 3 hold.
	maxRestartTime = (1<<12 - 1) * time.Second
	// multihopTTL is the TTL of sessions to external peers that may be routers away.
	multihopTTL = 255
)

// The index of a family in Global.Families.
const (
	familiesIPv4 = 0
	familiesIPv6 = 1
)

func globalToAPI(g speaker.Global) *gobgpapi.Global {
	out := &gobgpapi.Global{
		Asn:        g.ASN,
		RouterId:   g.RouterID.String(),
		ListenPort: int32(g.Port),
		Families:   []uint32{familiesIPv4, familiesIPv6},
		// These two end up in variables of the package, shared by all speakers of
		// the process: they are the same for every one.
		UseMultiplePaths:      true,
		RouteSelectionOptions: &gobgpapi.RouteSelectionOptionsConfig{ExternalCompareRouterId: true},
	}
	for _, a := range g.Listen {
		out.ListenAddresses = append(out.ListenAddresses, a.String())
	}
	return out
}

func familyOf(a netip.Addr) *gobgpapi.Family {
	if a.Is4() {
		return &gobgpapi.Family{Afi: gobgpapi.Family_AFI_IP, Safi: gobgpapi.Family_SAFI_UNICAST}
	}
	return &gobgpapi.Family{Afi: gobgpapi.Family_AFI_IP6, Safi: gobgpapi.Family_SAFI_UNICAST}
}

func peerToAPI(p speaker.Peer, restarting bool) *gobgpapi.Peer {
	graceful := p.RestartTime > 0
	out := &gobgpapi.Peer{
		Conf: &gobgpapi.PeerConf{
			NeighborAddress: p.Address.String(),
			PeerAsn:         p.ASN,
			LocalAsn:        p.LocalASN,
			AuthPassword:    string(p.Password),
			AllowOwnAsn:     uint32(p.AllowOwnASN),
		},
		Timers:    timersToAPI(p),
		Transport: &gobgpapi.Transport{PassiveMode: p.Passive, RemotePort: uint32(p.Port)},
		GracefulRestart: &gobgpapi.GracefulRestart{
			Enabled:     graceful,
			RestartTime: uint32(min(p.RestartTime, maxRestartTime) / time.Second),
			// RFC 8538: a NOTIFICATION too is survived, unless it is a hard reset.
			NotificationEnabled: graceful,
			DeferralTime:        deferral,
			LocalRestarting:     restarting && graceful,
		},
		AfiSafis: []*gobgpapi.AfiSafi{{
			Config:            &gobgpapi.AfiSafiConfig{Family: familyOf(p.Address), Enabled: true},
			MpGracefulRestart: &gobgpapi.MpGracefulRestart{Config: &gobgpapi.MpGracefulRestartConfig{Enabled: graceful}},
			AddPaths:          &gobgpapi.AddPaths{Config: &gobgpapi.AddPathsConfig{Receive: p.AddPath}},
		}},
	}
	if graceful && p.LongLived > 0 {
		out.GracefulRestart.LonglivedEnabled = true
		out.AfiSafis[0].LongLivedGracefulRestart = &gobgpapi.LongLivedGracefulRestart{
			Config: &gobgpapi.LongLivedGracefulRestartConfig{Enabled: true, RestartTime: uint32(p.LongLived / time.Second)},
		}
	}
	if p.LocalAddress.IsValid() {
		out.Transport.LocalAddress = p.LocalAddress.String()
	}
	switch {
	case p.TTLSecurity > 0:
		out.TtlSecurity = &gobgpapi.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(p.TTLSecurity)}
	case p.Multihop:
		out.EbgpMultihop = &gobgpapi.EbgpMultihop{Enabled: true, MultihopTtl: multihopTTL}
	}
	if p.ReflectorClient || p.ClusterID.IsValid() {
		out.RouteReflector = &gobgpapi.RouteReflector{
			RouteReflectorClient: p.ReflectorClient, RouteReflectorClusterId: p.ClusterID.String(),
		}
	}
	return out
}

// timersToAPI are a peer's timers, in whole seconds.
func timersToAPI(p speaker.Peer) *gobgpapi.Timers {
	hold := cmp.Or(p.HoldTime, holdTime)
	return &gobgpapi.Timers{Config: &gobgpapi.TimersConfig{
		ConnectRetry:           uint64(cmp.Or(p.ConnectRetry, connectRetry) / time.Second),
		HoldTime:               uint64(hold / time.Second),
		KeepaliveInterval:      uint64(cmp.Or(p.KeepaliveTime, hold/3) / time.Second),
		IdleHoldTimeAfterReset: uint64(connectRetry / time.Second),
	}}
}

// exportToAPI is the path of an export. Its next hop is unspecified: GoBGP puts
// the local address of each session in its place.
func exportToAPI(e speaker.Export, withdraw bool) *gobgpapi.Path {
	addr, family := e.Prefix.Addr(), familyOf(e.Prefix.Addr())
	nlri := &gobgpapi.IPAddressPrefix{Prefix: addr.String(), PrefixLen: uint32(e.Prefix.Bits())}
	attrs := []*anypb.Any{
		mustAny(anypb.New(&gobgpapi.OriginAttribute{Origin: uint32(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)})),
		mustAny(anypb.New(&gobgpapi.LocalPrefAttribute{LocalPref: speaker.OwnPreference})),
	}
	if addr.Is4() {
		attrs = append(attrs, mustAny(anypb.New(&gobgpapi.NextHopAttribute{NextHop: netip.IPv4Unspecified().String()})))
	} else {
		attrs = append(attrs, mustAny(anypb.New(&gobgpapi.MpReachNLRIAttribute{
			Family:   family,
			NextHops: []string{netip.IPv6Unspecified().String()},
			Nlris:    []*anypb.Any{mustAny(anypb.New(nlri))},
		})))
	}
	if standard := standardOf(e.Communities); len(standard) > 0 {
		attrs = append(attrs, mustAny(anypb.New(&gobgpapi.CommunitiesAttribute{Communities: standard})))
	}
	if large := largeOf(e.Communities); len(large) > 0 {
		attrs = append(attrs, mustAny(anypb.New(&gobgpapi.LargeCommunitiesAttribute{Communities: large})))
	}
	return &gobgpapi.Path{
		Family: family, Nlri: mustAny(anypb.New(nlri)), Pattrs: attrs, IsWithdraw: withdraw,
	}
}

func standardOf(communities []speaker.Community) (out []uint32) {
	for _, c := range communities {
		if !c.Large {
			out = append(out, c.A<<16|c.B)
		}
	}
	return out
}

func largeOf(communities []speaker.Community) (out []*gobgpapi.LargeCommunity) {
	for _, c := range communities {
		if c.Large {
			out = append(out, &gobgpapi.LargeCommunity{GlobalAdmin: c.A, LocalData1: c.B, LocalData2: c.C})
		}
	}
	return out
}

// mustAny packs messages of types this program is linked with: that can't fail.
func mustAny(a *anypb.Any, err error) *anypb.Any {
	if err != nil {
		panic(err)
	}
	return a
}

// defaultLocalPref is what GoBGP takes for a path without the attribute, as from an
// external peer.
const defaultLocalPref = 100

// pathFromAPI reads a path of the Loc-RIB or of a watch.
func pathFromAPI(p *gobgpapi.Path) (speaker.Path, error) {
	prefix, shared, err := (&decoder{}).path(p)
	if err != nil {
		return speaker.Path{}, err
	}
	out := *shared
	out.Prefix = prefix
	return out, nil
}

// decoder reads paths one after another. Most differ from the one before by their prefix
// only: these are read once, and shared.
type decoder struct {
	nlri  gobgpapi.IPAddressPrefix
	attrs []*anypb.Any
	peer  peerText
	told  speaker.Path // what attributes and peer said
	// last is the path read last, with what is set below.
	last *speaker.Path
}

// peerText is how GoBGP tells whose a path is.
type peerText struct{ address, id string }

// path is shared with others, and without its prefix: it must not be changed.
func (d *decoder) path(p *gobgpapi.Path) (netip.Prefix, *speaker.Path, error) {
	prefix, err := d.prefix(p.Nlri)
	if err != nil {
		return netip.Prefix{}, nil, fmt.Errorf("read BGP path: %w", err)
	}
	from := peerText{p.NeighborIp, p.SourceId}
	if d.last == nil || d.peer != from || !slices.EqualFunc(d.attrs, p.Pattrs, sameAny) {
		attrs, err := apiutil.GetNativePathAttributes(p)
		if err != nil {
			return netip.Prefix{}, nil, fmt.Errorf("read BGP path to %s: %w", prefix, err)
		}
		d.attrs, d.peer, d.told, d.last = p.Pattrs, from, speaker.Path{LocalPref: defaultLocalPref}, nil
		for _, attr := range attrs {
			readAttribute(&d.told, attr)
		}
		d.told.Peer, _ = netip.ParseAddr(from.address) // "<nil>" for our own
		if id, err := netip.ParseAddr(from.id); err == nil && d.told.Peer.IsValid() {
			d.told.PeerID = id
		}
	}
	learned := p.Age.AsTime()
	if l := d.last; l == nil || l.PeerASN != p.SourceAsn || l.ID != p.Identifier || l.Best != p.Best || l.Stale != p.Stale || !l.Learned.Equal(learned) {
		next := d.told
		next.PeerASN, next.ID, next.Best, next.Stale, next.Learned = p.SourceAsn, p.Identifier, p.Best, p.Stale, learned
		d.last = &next
	}
	return prefix, d.last, nil
}

func sameAny(a, b *anypb.Any) bool { return a.TypeUrl == b.TypeUrl && bytes.Equal(a.Value, b.Value) }

// prefix reads the destination of a path of unicast routes.
func (d *decoder) prefix(nlri *anypb.Any) (netip.Prefix, error) {
	if err := nlri.UnmarshalTo(&d.nlri); err != nil {
		return netip.Prefix{}, err
	}
	addr, err := netip.ParseAddr(d.nlri.Prefix)
	if err != nil {
		return netip.Prefix{}, err
	}
	prefix := netip.PrefixFrom(addr, int(d.nlri.PrefixLen))
	if !prefix.IsValid() {
		return netip.Prefix{}, fmt.Errorf("prefix length %d of %s", d.nlri.PrefixLen, addr)
	}
	return prefix, nil
}

func readAttribute(out *speaker.Path, attr bgp.PathAttributeInterface) {
	switch a := attr.(type) {
	case *bgp.PathAttributeNextHop:
		out.NextHop = addrOf(a.Value)
	case *bgp.PathAttributeMpReachNLRI:
		out.NextHop = addrOf(a.Nexthop)
		if out.NextHop.IsUnspecified() && a.LinkLocalNexthop != nil {
			out.NextHop = addrOf(a.LinkLocalNexthop)
		}
	case *bgp.PathAttributeLocalPref:
		out.LocalPref = a.Value
	case *bgp.PathAttributeMultiExitDisc:
		out.MED = a.Value
	case *bgp.PathAttributeCommunities:
		for _, c := range a.Value {
			out.Communities = append(out.Communities, speaker.Community{A: c >> 16, B: c & 0xffff})
		}
	case *bgp.PathAttributeLargeCommunities:
		for _, c := range a.Values {
			out.Communities = append(out.Communities, speaker.Community{Large: true, A: c.ASN, B: c.LocalData1, C: c.LocalData2})
		}
	case *bgp.PathAttributeAsPath:
		for _, segment := range a.Value {
			out.ASPath = append(out.ASPath, segment.GetAS()...)
			out.ASSetExtra += len(segment.GetAS()) - segment.ASLen()
		}
	case *bgp.PathAttributeOrigin:
		out.Origin = speaker.Origin(a.Value)
	}
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
