package etcdtest

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Raw reads and writes bytes, as a foreign program may, in the way of the store in
// memory.
type Raw struct {
	s *Server
	c *clientv3.Client
}

// Raw is a client for bytes.
func (s *Server) Raw() *Raw {
	s.t.Helper()
	return &Raw{s: s, c: s.Bare(context.Background())}
}

func (r *Raw) do(f func(ctx context.Context) error) {
	r.s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f(ctx); err != nil {
		r.s.t.Fatal(err)
	}
}

// Put writes a value.
func (r *Raw) Put(path string, value []byte) {
	r.s.t.Helper()
	r.do(func(ctx context.Context) error { _, err := r.c.Put(ctx, path, string(value)); return err })
}

// Delete removes a path.
func (r *Raw) Delete(path string) {
	r.s.t.Helper()
	r.do(func(ctx context.Context) error { _, err := r.c.Delete(ctx, path); return err })
}

// Get reads a value; ok is false when there is none.
func (r *Raw) Get(path string) (value []byte, ok bool) {
	r.s.t.Helper()
	r.do(func(ctx context.Context) error {
		answer, err := r.c.Get(ctx, path)
		if err == nil && len(answer.Kvs) > 0 {
			value, ok = answer.Kvs[0].Value, true
		}
		return err
	})
	return value, ok
}

// Paths lists what is stored below a prefix.
func (r *Raw) Paths(prefix string) []string {
	r.s.t.Helper()
	var paths []string
	r.do(func(ctx context.Context) error {
		answer, err := r.c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err == nil {
			for _, kv := range answer.Kvs {
				paths = append(paths, string(kv.Key))
			}
		}
		return err
	})
	return paths
}
