package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// The bounds of a block's history: it keeps about historyPerAddress releases for
// each of its addresses, in pages of pageReleases.
const (
	historyPerAddress = 4
	pageReleases      = 16
)

// The reasons of releases that nobody gave another.
const (
	reasonHandle = "the holder gave it back"
	reasonUndone = "assigned, but nobody was told: taken back"
)

// Owner is one time an address was held.
type Owner struct {
	Addr   netip.Addr
	Block  netip.Prefix
	Handle HandleID
	// Attrs describe the owner: node, namespace, pod … (api.AttributePod …).
	Attrs map[string]string
	// Assigned is when, zero when the owner's attributes don't say.
	Assigned time.Time
	// Released is when, and Reason why, it was given back; zero for who holds it now.
	Released time.Time
	Reason   string
}

// History lists who holds an address and who held it, the latest first. It knows the
// releases that this system carried out, about the last four of each address of a
// block; felix writes them down a second after the release. Pages that can't be read are
// in invalid.
func History(ctx context.Context, client datastore.Client, addr netip.Addr) (owners []Owner, invalid []datastore.Invalid, err error) {
	present, err := Lookup(ctx, client, addr)
	if err != nil {
		return nil, nil, fmt.Errorf("history of %s: %w", addr, err)
	}
	for bits := addr.BitLen() - maxBlockBits; bits <= addr.BitLen(); bits++ {
		block, err := addr.Prefix(bits)
		if err != nil {
			return nil, nil, fmt.Errorf("history of %s: %w", addr, err)
		}
		pages, broken, err := readHistory(ctx, client, block)
		if err != nil {
			return nil, nil, fmt.Errorf("history of %s: %w", addr, err)
		}
		invalid = append(invalid, broken...)
		for _, page := range pages {
			owners = append(owners, formerOwners(block, page, addr)...)
		}
	}
	slices.SortStableFunc(owners, func(a, b Owner) int { return a.Released.Compare(b.Released) })
	if present.Assigned {
		owners = append(owners, Owner{
			Addr: addr, Block: present.Block, Handle: present.Handle, Attrs: present.Attrs, Assigned: assignedAt(present.Attrs),
		})
	}
	slices.Reverse(owners)
	return owners, invalid, nil
}

func formerOwners(block netip.Prefix, page datastore.Entry, addr netip.Addr) []Owner {
	var owners []Owner
	for _, r := range pageOf(page).Releases {
		if held, err := netip.ParseAddr(r.Address); err != nil || held != addr {
			continue
		}
		owners = append(owners, Owner{
			Addr: addr, Block: block, Handle: HandleID(r.Handle), Attrs: r.Attributes,
			Assigned: assignedAt(r.Attributes), Released: r.Released.Time, Reason: r.Reason,
		})
	}
	return owners
}

// assignedAt reads the time of an assignment, in the form time.Time.String gives it.
func assignedAt(attrs map[string]string) time.Time {
	at, err := time.Parse("2006-01-02 15:04:05.999999999 -0700 MST", attrs[api.AttributeTimestamp])
	if err != nil {
		return time.Time{}
	}
	return at
}

// readHistory reads the pages of a block's history, the oldest first. Pages that can't
// be read are left out, and written over in their turn; broken says that there are some.
func readHistory(ctx context.Context, client datastore.Client, block netip.Prefix) (pages []datastore.Entry, broken []datastore.Invalid, err error) {
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMHistory, NamePrefix: api.HistoryPrefix(block)})
	if err != nil {
		return nil, nil, fmt.Errorf("read the history of block %s: %w", block, err)
	}
	slices.SortFunc(snap.Entries, func(a, b datastore.Entry) int { return cmp.Compare(pageOf(a).First, pageOf(b).First) })
	return snap.Entries, snap.Invalid, nil
}

func pageOf(entry datastore.Entry) api.IPAMHistorySpec {
	page, ok := entry.Object.(*api.IPAMHistory)
	if !ok {
		return api.IPAMHistorySpec{}
	}
	return page.Spec
}

// appendHistory adds releases to the history of a block. last is the newest page as
// it was read or written before, nil when it isn't known; the newest is returned.
func appendHistory(ctx context.Context, client datastore.Client, block netip.Prefix, last *datastore.Entry, releases []api.IPAMRelease) (*datastore.Entry, error) {
	var broken []datastore.Invalid
	for range maxAttempts {
		if last == nil {
			var pages []datastore.Entry
			var err error
			if pages, broken, err = readHistory(ctx, client, block); err != nil {
				return nil, err
			}
			last = &datastore.Entry{Key: api.HistoryKey(block, 0), Object: &api.IPAMHistory{}}
			if len(pages) > 0 {
				last = &pages[len(pages)-1]
			}
		}
		ops, newest := historyOps(block, *last, releases)
		if len(broken) > 0 && last.Revision == 0 {
			ops[0] = datastore.Put(last.Key, ops[0].Object)
		}
		rev, err := client.Txn(ctx, ops...)
		if err == nil {
			newest.Revision = rev
			return &newest, nil
		}
		if !errors.Is(err, datastore.ErrConflict) {
			return nil, fmt.Errorf("write the history of block %s: %w", block, err)
		}
		last = nil
	}
	return nil, fmt.Errorf("write the history of block %s: gave up after %d attempts: %w", block, maxAttempts, datastore.ErrConflict)
}

// historyOps fill the newest page and put further ones in the place of the oldest.
// Whatever is written depends on the newest page being what it was: of two writers
// only one succeeds.
func historyOps(block netip.Prefix, last datastore.Entry, releases []api.IPAMRelease) (ops []datastore.Op, newest datastore.Entry) {
	spec := pageOf(last)
	room := max(0, pageReleases-len(spec.Releases))
	// More than a few pages at once would not fit into a transaction, and push out
	// what they contain.
	if most := room + pageReleases*min(pageCount(block)-1, maxOps/2); len(releases) > most {
		releases = releases[len(releases)-most:]
	}
	fill := min(room, len(releases))
	spec.Releases = slices.Concat(spec.Releases, releases[:fill])
	newest = last
	newest.Object = historyObject(last.Key, spec)
	switch {
	case last.Revision == 0:
		ops = append(ops, datastore.Create(last.Key, newest.Object))
	case fill == 0:
		ops = append(ops, datastore.Check(last.Key, last.Revision))
	default:
		ops = append(ops, datastore.Update(newest))
	}
	for more := range slices.Chunk(releases[fill:], pageReleases) {
		spec = api.IPAMHistorySpec{First: spec.First + uint64(len(spec.Releases)), Releases: more}
		key := api.HistoryKey(block, int(spec.First/pageReleases%uint64(pageCount(block))))
		newest = datastore.Entry{Key: key, Object: historyObject(key, spec)}
		ops = append(ops, datastore.Put(key, newest.Object))
	}
	return ops, newest
}

// pageCount is how many pages a block has: two at least, so that a new one never
// takes the place of the one before.
func pageCount(block netip.Prefix) int {
	return max(2, blockSize(block)*historyPerAddress/pageReleases)
}

func historyObject(key api.Key, spec api.IPAMHistorySpec) *api.IPAMHistory {
	return &api.IPAMHistory{TypeMeta: typeMeta(key), ObjectMeta: metav1.ObjectMeta{Name: key.Name}, Spec: spec}
}

// released is what the history says of ordinals of a block that are about to be
// released.
func (b block) released(ordinals []int, at time.Time, reason string) []api.IPAMRelease {
	var out []api.IPAMRelease
	for _, n := range ordinals {
		index := b.spec.Allocations[n]
		if index == nil {
			continue
		}
		out = append(out, api.IPAMRelease{
			Address: b.addr(n).String(), Handle: string(b.holder(n)),
			Attributes: b.spec.Attributes[*index].ActiveOwnerAttrs, // nobody changes attributes in place
			Released:   metav1.NewTime(at.UTC().Truncate(time.Second)), Reason: reason,
		})
	}
	return out
}

// reasonKey is the key of WithReason's text in a context.
type reasonKey struct{}

// WithReason gives a context under which the history says why addresses were
// released.
func WithReason(ctx context.Context, reason string) context.Context {
	return context.WithValue(ctx, reasonKey{}, reason)
}

// reasonOf is the reason of WithReason; without one the holder itself has given back.
func reasonOf(ctx context.Context) string {
	if reason, ok := ctx.Value(reasonKey{}).(string); ok {
		return reason
	}
	return reasonHandle
}
