package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// AddressesOf reads the addresses a handle holds, sorted. A handle that doesn't
// exist holds none.
func AddressesOf(ctx context.Context, client datastore.Client, handle HandleID) ([]netip.Addr, error) {
	_, blocks, err := readHandle(ctx, client, handle)
	if err != nil {
		return nil, fmt.Errorf("read the addresses of handle %q: %w", handle, err)
	}
	var addrs []netip.Addr
	for _, b := range blocks {
		for _, n := range b.held(handle) {
			addrs = append(addrs, b.addr(n))
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}

// readHandle reads a handle, nil if absent, and the blocks it counts.
func readHandle(ctx context.Context, client datastore.Client, handle HandleID) (*datastore.Entry, []storedBlock, error) {
	entry, err := client.Get(ctx, api.HandleKey(string(handle)))
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var keys []api.Key
	for _, prefix := range handleBlocks(entry) {
		keys = append(keys, api.BlockKey(prefix))
	}
	current, err := readKeys(ctx, client, keys)
	if err != nil {
		return nil, nil, err
	}
	var blocks []storedBlock
	for _, key := range keys {
		if err := current.invalid[key]; err != nil {
			return nil, nil, err
		}
		found := current.entry(key)
		if found == nil {
			continue
		}
		b, err := asBlock(*found)
		if err != nil {
			return nil, nil, err
		}
		blocks = append(blocks, b)
	}
	return &entry, blocks, nil
}
