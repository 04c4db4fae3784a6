package memory

import (
	"context"
	"fmt"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Client is one program's connection to a Store.
type Client struct {
	store *Store
	// guarded by store.mu
	cut   bool
	epoch int
}

// Client makes another connection to the store.
func (s *Store) Client() *Client { return &Client{store: s} }

// SetUnavailable cuts this client off, or reconnects it, while others go on.
func (c *Client) SetUnavailable(unavailable bool) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if unavailable && !c.cut {
		c.epoch++
	}
	c.cut = unavailable
	c.store.broadcast()
}

// isCut and epochNow also serve the nil client, which is never cut off. The
// caller holds store.mu.
func (c *Client) isCut() bool { return c != nil && c.cut }

func (c *Client) epochNow() int {
	if c == nil {
		return 0
	}
	return c.epoch
}

// Get implements datastore.Client.
func (c *Client) Get(ctx context.Context, key api.Key) (datastore.Entry, error) {
	if err := c.connected(); err != nil {
		return datastore.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	return c.store.Get(ctx, key)
}

// List implements datastore.Client.
func (c *Client) List(ctx context.Context, r datastore.Range) (datastore.Snapshot, error) {
	if err := c.connected(); err != nil {
		return datastore.Snapshot{}, fmt.Errorf("list %s: %w", r, err)
	}
	return c.store.List(ctx, r)
}

// Txn implements datastore.Client.
func (c *Client) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if err := c.connected(); err != nil {
		return 0, fmt.Errorf("transaction: %w", err)
	}
	return c.store.Txn(ctx, ops...)
}

// Watch implements datastore.Client.
func (c *Client) Watch(ctx context.Context, r datastore.Range, after datastore.Revision) (datastore.Watch, error) {
	return c.store.watch(ctx, r, after, c)
}

// Close implements datastore.Client: this client answers nothing any more.
func (c *Client) Close() error {
	c.SetUnavailable(true)
	return nil
}

func (c *Client) connected() error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.cut {
		return datastore.ErrUnavailable
	}
	return nil
}
