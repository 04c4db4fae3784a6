package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// maxOps keeps a transaction below etcd's default limit of 128 operations.
const maxOps = 120

// storedBlock is a block as the store holds it at a revision.
type storedBlock struct {
	block
	entry datastore.Entry
}

// asBlock reads an entry as the block its key names.
func asBlock(entry datastore.Entry) (storedBlock, error) {
	obj, ok := entry.Object.(*api.IPAMBlock)
	if !ok {
		return storedBlock{}, fmt.Errorf("%s: it holds a %T: %w", entry.Key, entry.Object, datastore.ErrInvalid)
	}
	b, err := openBlock(&obj.Spec)
	if err != nil {
		return storedBlock{}, fmt.Errorf("%s: %w: %w", entry.Key, err, datastore.ErrInvalid)
	}
	if b.prefix.String() != entry.Key.Name {
		return storedBlock{}, fmt.Errorf("%s: its value is of block %s: %w", entry.Key, b.prefix, datastore.ErrInvalid)
	}
	return storedBlock{block: b, entry: entry}, nil
}

// with is the entry of the block with another content.
func (s storedBlock) with(b block) datastore.Entry {
	entry := s.entry
	entry.Object = blockObject(entry.Key, b.spec)
	return entry
}

// write is the operation that stores b in place of s: a delete when nobody has
// any use for it any more.
func (s storedBlock) write(b block) datastore.Op {
	if _, owned := b.owner(); !owned && b.empty() {
		return datastore.Delete(s.entry.Key, s.entry.Revision)
	}
	return datastore.Update(s.with(b))
}

// writes are the operations that store b in place of s, with the loans that begin and
// end by it.
func (s storedBlock) writes(b block) []datastore.Op { return WithLoans(&s.entry, s.write(b)) }

func blockObject(key api.Key, spec *api.IPAMBlockSpec) *api.IPAMBlock {
	return &api.IPAMBlock{TypeMeta: typeMeta(key), ObjectMeta: metav1.ObjectMeta{Name: key.Name}, Spec: *spec}
}

func handleObject(key api.Key, counts map[string]int) *api.IPAMHandle {
	return &api.IPAMHandle{
		TypeMeta:   typeMeta(key),
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec:       api.IPAMHandleSpec{HandleID: key.Name, Block: counts},
	}
}

func affinityObject(owner api.Affinity, block netip.Prefix, state api.AffinityState) *api.BlockAffinity {
	key := api.BlockAffinityKey(owner, block)
	return &api.BlockAffinity{
		TypeMeta:   typeMeta(key),
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec:       api.BlockAffinitySpec{State: state, Type: owner.Type, Node: owner.Name, CIDR: block.String()},
	}
}

// withState is an affinity entry in another state.
func withState(entry datastore.Entry, owner api.Affinity, block netip.Prefix, state api.AffinityState) datastore.Entry {
	entry.Object = affinityObject(owner, block, state)
	return entry
}

func typeMeta(key api.Key) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: string(key.Kind), APIVersion: api.GroupVersion}
}

// affinityState is the state of an affinity entry; a value without one counts
// as pending: nobody may rely on it.
func affinityState(entry datastore.Entry) api.AffinityState {
	if obj, ok := entry.Object.(*api.BlockAffinity); ok && obj.Spec.State != "" {
		return obj.Spec.State
	}
	return api.AffinityPending
}

// handleCounts is a copy of what a handle entry counts.
func handleCounts(entry datastore.Entry) map[string]int {
	counts := make(map[string]int)
	if obj, ok := entry.Object.(*api.IPAMHandle); ok {
		maps.Copy(counts, obj.Spec.Block)
	}
	return counts
}

// handleBlocks are the blocks a handle entry names; a name that is no block
// holds no address.
func handleBlocks(entry datastore.Entry) []netip.Prefix {
	var blocks []netip.Prefix
	for name := range handleCounts(entry) {
		if prefix, err := netip.ParsePrefix(name); err == nil && prefix == prefix.Masked() {
			blocks = append(blocks, prefix)
		}
	}
	sortPrefixes(blocks)
	return blocks
}

// present is what the store holds under some keys; an absent key is in neither
// map.
type present struct {
	entries map[api.Key]datastore.Entry
	// invalid are the keys whose value can't be read.
	invalid map[api.Key]error
}

func newPresent() present {
	return present{entries: make(map[api.Key]datastore.Entry), invalid: make(map[api.Key]error)}
}

// add takes in what a conflict tells.
func (p present) add(conflict *datastore.ConflictError) present {
	maps.Copy(p.entries, conflict.Current)
	for i := range conflict.Invalid {
		invalid := &conflict.Invalid[i]
		p.invalid[invalid.Key] = invalid
	}
	return p
}

// entry is the entry of a key, nil when there is none that can be read.
func (p present) entry(key api.Key) *datastore.Entry {
	if entry, ok := p.entries[key]; ok {
		return &entry
	}
	return nil
}

// readKeys reads many keys, a transaction's worth at one revision per round trip:
// the conflict that reports them is the answer.
func readKeys(ctx context.Context, client datastore.Client, keys []api.Key) (present, error) {
	found := newPresent()
	for chunk := range slices.Chunk(keys, maxOps) {
		ops := make([]datastore.Op, len(chunk))
		for i, key := range chunk {
			ops[i] = datastore.Check(key, 0)
		}
		_, err := client.Txn(ctx, ops...)
		var conflict *datastore.ConflictError
		switch {
		case errors.As(err, &conflict):
			found.add(conflict)
		case err != nil:
			return present{}, fmt.Errorf("read %d keys: %w", len(chunk), err)
		}
	}
	return found, nil
}

// blockOfKey is the prefix of a block's key.
func blockOfKey(key api.Key) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(key.Name)
	return prefix, err == nil && key.Kind == api.KindIPAMBlock && prefix == prefix.Masked()
}
