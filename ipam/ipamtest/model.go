package ipamtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"tortie/internal/datastore"
)

// Model is the reference: who holds which address, according to what callers
// were told. It knows no blocks, no retries and no store.
type Model struct {
	owners map[netip.Addr]string
}

// NewModel is a model of an empty cluster.
func NewModel() *Model { return &Model{owners: make(map[netip.Addr]string)} }

// Assigned takes in that a handle was given addresses. It fails when one of them
// already has an owner.
func (m *Model) Assigned(handle string, addrs []netip.Addr) error {
	for _, addr := range addrs {
		if owner, taken := m.owners[addr]; taken {
			return fmt.Errorf("%s was given to %s, but %s holds it", addr, handle, owner)
		}
		m.owners[addr] = handle
	}
	return nil
}

// Released takes in that a handle holds nothing any more.
func (m *Model) Released(handle string) {
	maps.DeleteFunc(m.owners, func(_ netip.Addr, owner string) bool { return owner == handle })
}

// Holds lists the addresses of a handle, sorted.
func (m *Model) Holds(handle string) []netip.Addr {
	var addrs []netip.Addr
	for addr, owner := range m.owners {
		if owner == handle {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// Compare says how the owners in a store, as Owners reads them, differ from the
// model's.
func (m *Model) Compare(owners map[netip.Addr]string) error {
	for _, addr := range slices.SortedFunc(maps.Keys(m.owners), netip.Addr.Compare) {
		if owners[addr] != m.owners[addr] {
			return fmt.Errorf("%s: the store says %q, callers were told %q", addr, owners[addr], m.owners[addr])
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(owners), netip.Addr.Compare) {
		if _, told := m.owners[addr]; !told {
			return fmt.Errorf("%s: the store says %q, no caller was told so", addr, owners[addr])
		}
	}
	return nil
}

// Verify checks a store against the invariants and against the model.
func (m *Model) Verify(ctx context.Context, client datastore.Client) error {
	if err := Check(ctx, client); err != nil {
		return err
	}
	owners, err := Owners(ctx, client)
	if err != nil {
		return err
	}
	return m.Compare(owners)
}
