package cniserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/felix/cniserver/netconf"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// status answers STATUS: nil when an ADD could be served now.
func (s *Server) status(ctx context.Context, c call) error {
	reason, err := s.obstacle(ctx, c)
	if err != nil {
		reason = err.Error()
	}
	if reason == "" {
		return s.delegateStatus(ctx, c)
	}
	return &cniwire.Error{Code: cniwire.CodeNotAvailable, Msg: reason}
}

// obstacle is why an ADD would not be served now; empty for none that is known.
func (s *Server) obstacle(ctx context.Context, c call) (string, error) {
	if err := s.Ready(); err != nil {
		return "", err
	}
	if err := s.health(); err != nil {
		return "", fmt.Errorf("felix on node %s is without its datastore: %w", s.node, err)
	}
	if err := s.storeAnswers(ctx); err != nil {
		return "", fmt.Errorf("felix on node %s gets no answer from its datastore: %w; look whether etcd runs and answers: etcdctl endpoint health", s.node, err)
	}
	if barred := s.barred(); barred != nil {
		return "", barred
	}
	if !s.state.HasNode() {
		if problem := s.nodeProblem(); problem != nil {
			return "", problem
		}
		return "there is no Node resource named " + s.node + "; create it, or start felix with NODENAME set to the name it has", nil
	}
	if c.delegate != nil {
		return "", nil
	}
	if reason := s.withoutPool(c.conf.IPAM); reason != "" {
		return reason, nil
	}
	return s.stillFull(ctx, c)
}

// askTimeout bounds STATUS' question: a runtime waits, and an ADD would not be done in time.
const askTimeout = 2 * time.Second

// storeAnswers is nil when the store answers: one that hangs keeps its connections.
func (s *Server) storeAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := s.client.Get(ctx, api.Key{Kind: api.KindClusterInformation, Name: "default"})
	switch {
	case errors.Is(err, datastore.ErrNotFound), errors.Is(err, datastore.ErrInvalid):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("none within %v", askTimeout)
	}
	return err
}

// withoutPool names the IP version for which there is no pool at all.
func (s *Server) withoutPool(conf netconf.IPAM) string {
	for _, v := range []struct {
		number int
		asked  bool
		pools  []string
	}{{4, conf.IPv4, conf.Pools4}, {6, conf.IPv6, conf.Pools6}} {
		switch {
		case !v.asked || len(s.state.poolsOf(v.number, v.pools)) > 0:
		case s.state.unreadPool() != "":
			return s.state.unreadPool()
		case len(v.pools) == 0:
			return fmt.Sprintf("there is no enabled IP pool for workloads with IPv%d addresses; create one with: calicoctl create -f <IPPool manifest>", v.number)
		default:
			return fmt.Sprintf("of the IP pools that the network configuration names, %s, none is there and enabled for workloads; see calicoctl get ippools -o wide", strings.Join(v.pools, ", "))
		}
	}
	return ""
}

// shortages are the networks whose last ADD found no free address. STATUS looks at the
// blocks of those alone: runtimes ask often, and a cluster has many blocks.
type shortages struct {
	any       atomic.Bool
	mu        sync.Mutex
	byNetwork map[string]*ipam.ExhaustedError
}

// note takes in what became of an assignment.
func (s *shortages) note(network string, err error) {
	if err == nil && !s.any.Load() {
		return // nearly every ADD
	}
	exhausted, full := errors.AsType[*ipam.ExhaustedError](err)
	full = full && errors.Is(exhausted, ipam.ErrPoolFull)
	if !full && err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if full {
		if s.byNetwork == nil {
			s.byNetwork = map[string]*ipam.ExhaustedError{}
		}
		s.byNetwork[network] = exhausted
	} else {
		delete(s.byNetwork, network)
	}
	s.any.Store(len(s.byNetwork) > 0)
}

func (s *shortages) of(network string) *ipam.ExhaustedError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byNetwork[network]
}

// stillFull says why the last ADD of the network found no address, unless one is free
// by now. A free one that this node may not take (strictAffinity, a limit, a
// reservation) is found out by the next ADD.
func (s *Server) stillFull(ctx context.Context, c call) (string, error) {
	full := s.shortage.of(c.conf.Name)
	if full == nil {
		return "", nil
	}
	wanted := c.conf.IPAM.Pools4
	if full.Version == 6 {
		wanted = c.conf.IPAM.Pools6
	}
	snapshot, err := s.client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return "", fmt.Errorf("list the blocks of addresses: %w", err)
	}
	for _, pool := range s.state.poolsOf(full.Version, wanted) {
		if hasRoom(pool, snapshot.Entries) {
			return "", nil
		}
	}
	return full.Error(), nil
}

// hasRoom reports whether a pool has a free address in a block, or room for a block.
func hasRoom(pool *v3.IPPool, entries []datastore.Entry) bool {
	cidr, err := netip.ParsePrefix(pool.Spec.CIDR)
	if err != nil {
		return false
	}
	blocks := 0.0
	for _, entry := range entries {
		block, ok := entry.Object.(*api.IPAMBlock)
		if !ok {
			continue
		}
		prefix, err := netip.ParsePrefix(block.Spec.CIDR)
		if err != nil || !cidr.Contains(prefix.Addr()) {
			continue
		}
		if len(block.Spec.Unallocated) > 0 {
			return true
		}
		blocks++
	}
	return blocks < math.Exp2(float64(pool.Spec.BlockSize-cidr.Bits()))
}
