package registration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"tortie/felix/wireguard"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/overlay"
)

// KeyConfig is what Keys work with; all of it is required.
type KeyConfig struct {
	Node     string
	Client   datastore.Client
	Registry *api.Registry
	Keys     *wireguard.Keys
	// Prepare makes the device that the key is for: as soon as the key stands in the
	// Node, others send to it. Rekeyed has it take another key.
	Prepare func(ctx context.Context, tunnel netip.Addr) error
	Rekeyed func(ctx context.Context) error
	Log     *slog.Logger
}

// KeyWish is what is wanted of this node's WireGuard keys, and what its Node says.
type KeyWish struct {
	V4, V6 bool // is WireGuard on
	// Lifetime is how old a key gets; 0 for any age.
	Lifetime time.Duration
	// Request is the Node's wish for new keys; see [api.AnnotationNewWireguardKeys].
	Request string
	Shown   overlay.Node
	// Floating are the addresses that the node's pods send from besides their own, as the
	// Node is to show them, and does; see [api.AnnotationFloatingAddresses].
	Floating, FloatingShown string
}

// Keys keep this node's public keys of WireGuard in its Node: published when the device
// is there, taken away when WireGuard is off, and changed in their time. Others follow
// the Node, so they send under the new key as soon as they hear of it.
type Keys struct {
	last
	cfg   KeyConfig
	write *datastore.Resources
	kick  chan struct{}

	mu   sync.Mutex
	wish *KeyWish
}

// NewKeys makes Keys; Run starts them, once Want has said something.
func NewKeys(cfg KeyConfig) *Keys {
	return &Keys{cfg: cfg, write: datastore.NewResources(cfg.Client, cfg.Registry, nil), kick: make(chan struct{}, 1)}
}

// Want tells what is wanted.
func (k *Keys) Want(w KeyWish) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wish != nil && *k.wish == w {
		return
	}
	k.wish = &w
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// keyLook is how often it is looked whether a key has had its time.
const keyLook = time.Minute

// Run makes the Node as wanted until ctx ends. While it can't, it goes on trying and
// says so once.
func (k *Keys) Run(ctx context.Context) error {
	due := time.NewTimer(never)
	defer due.Stop()
	pause := retryMin
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.kick:
		case <-due.C:
		}
		again, err := k.reconcile(ctx)
		if ctx.Err() != nil {
			return nil
		}
		k.say(err)
		if err != nil {
			again = pause
			pause = min(2*pause, retryMax)
		} else {
			pause = retryMin
		}
		due.Reset(again)
	}
}

// say logs what is wrong when that is news, and its end.
func (k *Keys) say(err error) {
	switch recovered, failing := k.note(err); {
	case recovered:
		k.cfg.Log.Info("the node's WireGuard keys are as they should be again")
	case failing:
		k.cfg.Log.Warn("the node's WireGuard keys are not as they should be; trying again", "err", err)
	}
}

// reconcile sees to both versions of IP and returns when to come again.
func (k *Keys) reconcile(ctx context.Context) (again time.Duration, err error) {
	k.mu.Lock()
	wish := *k.wish
	k.mu.Unlock()
	again = never
	for _, v6 := range []bool{false, true} {
		on, shown := wish.V4, wish.Shown.V4
		if v6 {
			on, shown = wish.V6, wish.Shown.V6
		}
		switch {
		case on && !shown.Secure.Tunnel.IsValid():
			// Comes with the address, which others keep in the Node.
		case on:
			if wish.Lifetime > 0 {
				again = min(again, keyLook)
			}
			err = errors.Join(err, k.ensure(ctx, v6, shown.Secure, wish))
		case shown.Secure.Key != overlay.Key{}:
			err = errors.Join(err, k.publish(ctx, v6, overlay.Key{}))
		}
	}
	if wish.Floating != wish.FloatingShown {
		err = errors.Join(err, k.change(ctx, "floating addresses", func(node *api.Node) (changed bool) {
			changed = node.Annotations[api.AnnotationFloatingAddresses] != wish.Floating
			switch {
			case wish.Floating == "":
				delete(node.Annotations, api.AnnotationFloatingAddresses)
			case node.Annotations == nil:
				node.Annotations = map[string]string{api.AnnotationFloatingAddresses: wish.Floating}
			default:
				node.Annotations[api.AnnotationFloatingAddresses] = wish.Floating
			}
			return changed
		}))
	}
	return again, err
}

// ensure has the Node show the key that the device has. A key that is being changed
// is written into the Node first and given to the device at once after: what is lost
// is what is on its way between the two, and until the others hear of it.
func (k *Keys) ensure(ctx context.Context, v6 bool, shown overlay.Secure, wish KeyWish) error {
	now := time.Now()
	if _, err := k.cfg.Keys.Promote(v6, shown.Key, wish.Request); err != nil { // as left by a felix that ended in between
		return err
	}
	current, err := k.cfg.Keys.Current(v6, now)
	if err != nil {
		return err
	}
	if shown.Key != current.Public() {
		if err := k.cfg.Prepare(ctx, shown.Tunnel); err != nil {
			return err
		}
		return k.publish(ctx, v6, current.Public())
	}
	if !k.cfg.Keys.Due(v6, wish.Lifetime, wish.Request, now) {
		return nil
	}
	next, err := k.cfg.Keys.Next(v6, now)
	if err != nil {
		return err
	}
	if err := k.publish(ctx, v6, next.Public()); err != nil {
		return err
	}
	if _, err := k.cfg.Keys.Promote(v6, next.Public(), wish.Request); err != nil {
		return err
	}
	k.cfg.Log.Info("changed the WireGuard key", "version", version(v6), "key", next.Public())
	return k.cfg.Rekeyed(ctx)
}

// publish writes a key into the Node; none takes it out.
func (k *Keys) publish(ctx context.Context, v6 bool, key overlay.Key) error {
	return k.change(ctx, "WireGuard key", func(node *api.Node) bool {
		field := &node.Status.WireguardPublicKey
		if v6 {
			field = &node.Status.WireguardPublicKeyV6
		}
		text := ""
		if key != (overlay.Key{}) {
			text = key.String()
		}
		changed := *field != text
		*field = text
		return changed
	})
}

// change writes into the Node what apply makes of it, if that says that it is another.
func (k *Keys) change(ctx context.Context, what string, apply func(*api.Node) (changed bool)) error {
	var err error
	for range maxRaces {
		if err = k.changeOnce(ctx, apply); !errors.Is(err, datastore.ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write the %s of node %s: %w", what, k.cfg.Node, err)
	}
	return nil
}

func (k *Keys) changeOnce(ctx context.Context, apply func(*api.Node) bool) error {
	e, node, err := readNode(ctx, k.cfg.Client, k.cfg.Node)
	if err != nil || !apply(node) {
		return err
	}
	e.Object = node
	_, err = k.write.Update(ctx, e)
	return err
}
