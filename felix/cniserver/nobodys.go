package cniserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/given"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
)

// ofNobody refuses addresses that the pod is to have without IPAM and that are somebody's.
// Until unlock, no other ADD of this node is given one of them; between nodes nobody stands
// guard. The store is asked, which such pods are rare enough for.
func (a *addition) ofNobody(ctx context.Context) (unlock func(), err error) {
	unlock = func() {}
	if !a.entry.Given {
		return unlock, nil
	}
	addrs := slices.SortedFunc(slices.Values(a.entry.Addrs), netip.Addr.Compare)
	for _, addr := range addrs {
		release, err := a.server.lockEndpoint(ctx, "address "+addr.String(), a.call.id)
		if err != nil {
			unlock()
			return nil, err
		}
		before := unlock
		unlock = func() { release(); before() }
	}
	if err := a.refuseOthers(ctx, addrs); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (a *addition) refuseOthers(ctx context.Context, addrs []netip.Addr) error {
	v, err := a.view(ctx)
	if err != nil {
		return fmt.Errorf("whose are the addresses that %s asks for: %w", a.call.id, err)
	}
	for _, addr := range addrs {
		if v.Blocks, err = a.blocksAround(ctx, addr, v.Pools); err != nil {
			return fmt.Errorf("whose is %s: %w", addr, err)
		}
		refused := given.Refuse(addr, v)
		if refused == nil {
			continue
		}
		wrong := &netconf.AnnotationError{Name: "ipAddrsNoIpam", Reason: refused.Error()}
		if refused.Passes {
			return &cniwire.Error{Code: cniwire.CodeTryAgainLater, Msg: wrong.Error()}
		}
		return wrong
	}
	return nil
}

// view reads what addresses are judged by, but for blocks.
func (a *addition) view(ctx context.Context) (v given.View, err error) {
	s := a.server
	if v.Surroundings, err = s.surroundings(ctx); err != nil {
		return v, err
	}
	var errs [5]error
	v.Nodes, errs[0] = listed[*api.Node](ctx, s.client, api.KindNode)
	v.Endpoints, errs[1] = listed[*api.WorkloadEndpoint](ctx, s.client, api.KindWorkloadEndpoint)
	v.Pools, errs[2] = listed[*v3.IPPool](ctx, s.client, api.KindIPPool)
	v.Reservations, errs[3] = listed[*v3.IPReservation](ctx, s.client, api.KindIPReservation)
	v.Peers, errs[4] = listed[*v3.BGPPeer](ctx, s.client, api.KindBGPPeer)
	v.Endpoints = slices.DeleteFunc(v.Endpoints, func(ep *api.WorkloadEndpoint) bool { // of an earlier sandbox of the pod
		return ep.Namespace == a.call.endpoint.Namespace && ep.Name == a.call.endpoint.Name
	})
	return v, cmp.Or(errs[:]...)
}

func listed[T api.Object](ctx context.Context, client datastore.Client, kind api.Kind) (all []T, err error) {
	snapshot, err := client.List(ctx, datastore.Range{Kind: kind})
	if err != nil {
		return nil, fmt.Errorf("list every %s: %w", kind, err)
	}
	for _, entry := range snapshot.Entries {
		if obj, ok := entry.Object.(T); ok {
			all = append(all, obj)
		}
	}
	return all, nil
}

func (a *addition) blocksAround(ctx context.Context, addr netip.Addr, pools []*v3.IPPool) (blocks []*api.IPAMBlock, err error) {
	for _, prefix := range given.BlocksAround(addr, pools) {
		entry, err := a.server.client.Get(ctx, api.BlockKey(prefix))
		switch {
		case errors.Is(err, datastore.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		}
		if block, ok := entry.Object.(*api.IPAMBlock); ok {
			blocks = append(blocks, block)
		}
	}
	return blocks, nil
}
