package datastore

import "context"

// sentKey is the key of WithSent's function in a context.
type sentKey struct{}

// WithSent gives a context under which a Client calls sent when it has passed a
// transaction on to the network, for callers with other work to do while the store
// is at its own. It is a hint and no more: sent is not called for a transaction
// that can't be sent, and says nothing about what becomes of it. It must return at
// once and may be called more than once.
func WithSent(ctx context.Context, sent func()) context.Context {
	return context.WithValue(ctx, sentKey{}, sent)
}

// Sent calls the function of WithSent, if there is one; Clients do so.
func Sent(ctx context.Context) {
	if sent, ok := ctx.Value(sentKey{}).(func()); ok {
		sent()
	}
}
