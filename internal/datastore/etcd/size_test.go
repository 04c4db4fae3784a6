package etcd

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd/etcdtest"
)

// TestAnObjectTooLargeForEtcdIsRefusedWithItsSize: whether etcd itself refuses it
// or gRPC on our side.
func TestAnObjectTooLargeForEtcdIsRefusedWithItsSize(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Options{})
	c, err := New(context.Background(), Config{Config: server.Config()}, api.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	const mib = 1 << 20
	for name, size := range map[string]int{"by etcd": 7 * mib / 4, "by gRPC": 3 * mib} {
		block := &api.IPAMHandle{Spec: api.IPAMHandleSpec{Block: map[string]int{strings.Repeat("x", size): 1}}}
		_, err := c.Txn(t.Context(), datastore.Create(handleKey(1), block))
		if err == nil {
			t.Fatalf("%s: accepted", name)
		}
		const start = "create IPAMHandle(h1): the request is too large for etcd: the object has "
		if text := err.Error(); !strings.HasPrefix(text, start) || !strings.Contains(text, " bytes, etcd takes 1572864 in one request") {
			t.Errorf("%s: error %.300q", name, text)
		}
		// Trying again doesn't help.
		if errors.Is(err, datastore.ErrUnavailable) {
			t.Errorf("%s: error %.300q is an ErrUnavailable", name, err)
		}
	}
}
