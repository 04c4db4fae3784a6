// Package datastoretest is the contract of datastore.Client as tests. Every
// backend runs the same suite.
package datastoretest

import (
	"context"
	"fmt"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Store is one empty store under test and what the suite needs to do behind the
// back of its client.
type Store struct {
	// Client under test.
	Client datastore.Client
	// RawPut writes bytes under a path.
	RawPut func(path string, value []byte)
	// RawGet reads the bytes of a path; false when there is none.
	RawGet func(path string) ([]byte, bool)
	// RawDelete removes a path.
	RawDelete func(path string)
	// Compact forgets the history before a revision.
	Compact func(rev datastore.Revision)
	// Unreachable gives a client of a store that doesn't answer.
	Unreachable func() datastore.Client
}

// Timeout is how long the suite waits for what must happen.
const Timeout = 20 * time.Second

// suite is the state of one test: a fresh store.
type suite struct {
	*testing.T
	Store
	ctx context.Context
	reg *api.Registry
}

// Run runs the whole suite. newStore makes an empty store and registers its own
// clean-up with t.
func Run(t *testing.T, reg *api.Registry, newStore func(t *testing.T) Store) {
	tests := []struct {
		name string
		run  func(*suite)
	}{
		{"Operations", testOperations},
		{"Conflicts", testConflicts},
		{"ConflictAmongManyCreates", testConflictAmongManyCreates},
		{"Transactions", testTransactions},
		{"Lists", testLists},
		{"Watches", testWatches},
		{"WatchLimits", testWatchLimits},
		{"ForeignData", testForeignData},
		{"Concurrency", testConcurrency},
		{"Availability", testAvailability},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), Timeout)
			defer cancel()
			tc.run(&suite{T: t, Store: newStore(t), ctx: ctx, reg: reg})
		})
	}
}

// sub runs a named part of a test on the same store.
func (s *suite) sub(name string, run func(*suite)) {
	s.T.Run(name, func(t *testing.T) {
		part := *s
		part.T = t
		run(&part)
	})
}

func pool(name, cidr string) *v3.IPPool {
	return &v3.IPPool{
		TypeMeta:   metav1.TypeMeta{Kind: v3.KindIPPool, APIVersion: v3.GroupVersionCurrent},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v3.IPPoolSpec{CIDR: cidr},
	}
}

func poolKey(name string) api.Key { return api.Key{Kind: api.KindIPPool, Name: name} }

func netset(namespace, name string) *v3.NetworkSet {
	return &v3.NetworkSet{
		TypeMeta:   metav1.TypeMeta{Kind: v3.KindNetworkSet, APIVersion: v3.GroupVersionCurrent},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       v3.NetworkSetSpec{Nets: []string{"192.0.2.0/24"}},
	}
}

func handle(blocks map[string]int) *api.IPAMHandle {
	return &api.IPAMHandle{Spec: api.IPAMHandleSpec{Block: blocks}}
}

// put writes a pool and returns its revision.
func (s *suite) put(name, cidr string) datastore.Revision {
	s.Helper()
	return s.txn(datastore.Put(poolKey(name), pool(name, cidr)))
}

func (s *suite) txn(ops ...datastore.Op) datastore.Revision {
	s.Helper()
	rev, err := s.Client.Txn(s.ctx, ops...)
	if err != nil {
		s.Fatalf("Txn: %v", err)
	}
	return rev
}

func (s *suite) get(key api.Key) datastore.Entry {
	s.Helper()
	e, err := s.Client.Get(s.ctx, key)
	if err != nil {
		s.Fatalf("Get: %v", err)
	}
	return e
}

func (s *suite) list(r datastore.Range) datastore.Snapshot {
	s.Helper()
	snap, err := s.Client.List(s.ctx, r)
	if err != nil {
		s.Fatalf("List: %v", err)
	}
	return snap
}

func (s *suite) path(key api.Key) string {
	s.Helper()
	p, err := s.reg.Path(key)
	if err != nil {
		s.Fatal(err)
	}
	return p
}

func (s *suite) cidr(e datastore.Entry) string {
	s.Helper()
	p, ok := e.Object.(*v3.IPPool)
	if !ok {
		s.Fatalf("%s is a %T", e.Key, e.Object)
	}
	return p.Spec.CIDR
}

// keys lists the keys of a snapshot as text.
func keys(snap datastore.Snapshot) []string {
	var out []string
	for _, e := range snap.Entries {
		out = append(out, e.Key.String())
	}
	return out
}

// describe renders events for comparison: "+pool-a 10.0.0.0/8", "-pool-a", "?path".
func describe(events []datastore.Event) []string {
	var out []string
	for _, ev := range events {
		switch {
		case ev.Invalid != nil:
			out = append(out, "?"+ev.Invalid.Path)
		case ev.Deleted:
			out = append(out, "-"+ev.Key.Name+ev.Path)
		default:
			text := "+" + ev.Key.Name
			if p, ok := ev.Entry.Object.(*v3.IPPool); ok {
				text += " " + p.Spec.CIDR
			}
			out = append(out, text)
		}
	}
	return out
}

func cidrOf(i int) string { return fmt.Sprintf("10.%d.0.0/16", i) }
