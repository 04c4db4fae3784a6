package daemon

import (
	"sync"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// policies counts the network policies that are stored.
type policies struct {
	mu   sync.Mutex
	keys map[api.Key]struct{}
}

// Ranges are the parts of the datastore that are counted.
func (*policies) Ranges() []datastore.Range {
	return []datastore.Range{{Kind: api.KindNetworkPolicy}, {Kind: api.KindGlobalNetworkPolicy}}
}

// Apply implements follower.
func (p *policies) Apply(updates []datastore.SyncUpdate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range updates {
		if u.Key.Kind != api.KindNetworkPolicy && u.Key.Kind != api.KindGlobalNetworkPolicy {
			continue
		}
		if delete(p.keys, u.Key); u.Entry != nil || u.Invalid != nil {
			if p.keys == nil {
				p.keys = map[api.Key]struct{}{}
			}
			p.keys[u.Key] = struct{}{}
		}
	}
}

func (p *policies) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.keys)
}
