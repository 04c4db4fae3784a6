package ipam_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

const loanRoot = "/calico/tortie/v1/loans/"

func (c *cluster) expectLoans(when string, want ...string) {
	c.t.Helper()
	var full []string
	for _, name := range want {
		full = append(full, loanRoot+name)
	}
	if got := c.store.Paths(loanRoot); !slices.Equal(got, full) {
		c.t.Errorf("%s: the loans are %q, want %q", when, got, full)
	}
}

// borrowing is a cluster in which n has an address of m's only block.
func borrowing(t *testing.T) (c *cluster, n, m *ipam.Allocator, borrowed netip.Addr) {
	c = newCluster(t, newPool("p", onlyBlock, blockSize(30)), newNode("n", nil), newNode("m", nil))
	n, m = c.allocator("n"), c.allocator("m")
	assign(t, m, "lender", 1, 0)
	c.expectLoans("an own block")
	borrowed = assign(t, n, "borrower", 1, 0)[0]
	c.expectLoans("borrowed", "n/10.0.0.0-30")
	return c, n, m, borrowed
}

// TestALoanIsOnRecordAsLongAsAnAddressIsBorrowed for each way of ours by which that begins
// or ends.
func TestALoanIsOnRecordAsLongAsAnAddressIsBorrowed(t *testing.T) {
	const loan = "n/10.0.0.0-30"
	for _, tc := range []struct {
		name string
		do   func(*testing.T, *cluster, *ipam.Allocator, netip.Addr) error
		want []string
	}{
		{"the holder gives it back", func(t *testing.T, _ *cluster, n *ipam.Allocator, _ netip.Addr) error {
			_, err := n.ReleaseByHandle(t.Context(), "borrower")
			return err
		}, nil},
		{"one of two is given back", func(t *testing.T, _ *cluster, n *ipam.Allocator, _ netip.Addr) error {
			assign(t, n, "second", 1, 0)
			_, err := n.ReleaseByHandle(t.Context(), "borrower")
			return err
		}, []string{loan}},
		{"a named address beside it", func(t *testing.T, _ *cluster, n *ipam.Allocator, _ netip.Addr) error {
			if _, err := n.AssignIP(t.Context(), netip.MustParseAddr("10.0.0.3"), ipam.Request{Handle: "named"}); err != nil {
				return err
			}
			_, err := n.ReleaseByHandle(t.Context(), "borrower")
			return err
		}, []string{loan}},
		{"a program without an allocator releases the handle", func(t *testing.T, c *cluster, _ *ipam.Allocator, _ netip.Addr) error {
			_, err := ipam.ReleaseHandle(t.Context(), c.store, "borrower")
			return err
		}, nil},
		{"the address is released as it was seen", func(t *testing.T, c *cluster, _ *ipam.Allocator, borrowed netip.Addr) error {
			entry, err := c.store.Get(t.Context(), api.BlockKey(netip.MustParsePrefix(onlyBlock)))
			if err != nil {
				return err
			}
			held, err := ipam.AllocationsOf(entry)
			if err != nil {
				return err
			}
			at := slices.IndexFunc(held, func(a ipam.Allocation) bool { return a.Addr == borrowed })
			return ipam.ReleaseOne(t.Context(), c.store, held[at])
		}, nil},
		{"the lender gives its block up: it borrows, too, what it has there", func(t *testing.T, c *cluster, _ *ipam.Allocator, _ netip.Addr) error {
			_, err := ipam.ReleaseHost(t.Context(), c.store, "m")
			return err
		}, []string{"m/10.0.0.0-30", loan}},
		{"the lender is deleted", func(t *testing.T, c *cluster, _ *ipam.Allocator, _ netip.Addr) error {
			_, err := ipam.ReleaseNode(t.Context(), c.store, "m")
			return err
		}, []string{loan}},
		{"the borrower is deleted", func(t *testing.T, c *cluster, _ *ipam.Allocator, _ netip.Addr) error {
			_, err := ipam.ReleaseNode(t.Context(), c.store, "n")
			return err
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, n, _, borrowed := borrowing(t)
			if err := tc.do(t, c, n, borrowed); err != nil {
				t.Fatal(err)
			}
			c.expectLoans("afterwards", tc.want...)
			c.check()
		})
	}
}

// TestLoansAreMendedAfterStrangers: an older version, upstream's nodes and its calicoctl
// write blocks and no loans.
func TestLoansAreMendedAfterStrangers(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*testing.T, datastore.Client) error
		want []string
	}{
		{"what was borrowed is released", func(t *testing.T, stranger datastore.Client) error {
			_, err := ipam.ReleaseHandle(t.Context(), stranger, "borrower")
			return err
		}, nil},
		{"the node's own block is taken away under its pods", func(t *testing.T, stranger datastore.Client) error {
			_, err := ipam.ReleaseHost(t.Context(), stranger, "m")
			return err
		}, []string{"m/10.0.0.0-30", "n/10.0.0.0-30"}},
		{"there was never a record", func(t *testing.T, stranger datastore.Client) error {
			_, err := stranger.(loanless).Client.Txn(t.Context(), datastore.DeleteAny(api.LoanKey("n", netip.MustParsePrefix(onlyBlock))))
			return err
		}, []string{"n/10.0.0.0-30"}},
		{"the record is of a block that is gone", func(t *testing.T, stranger datastore.Client) error {
			gone := netip.MustParsePrefix("10.9.0.0/30")
			_, err := stranger.(loanless).Client.Txn(t.Context(), datastore.Put(api.LoanKey("n", gone), api.NewLoan("n", gone)))
			return err
		}, []string{"n/10.0.0.0-30"}},
	} {
		for _, named := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				c, _, _, _ := borrowing(t)
				if err := tc.do(t, loanless{c.store}); err != nil {
					t.Fatal(err)
				}
				var only []netip.Prefix
				if named {
					only = []netip.Prefix{netip.MustParsePrefix(onlyBlock), netip.MustParsePrefix("10.9.0.0/30")}
				}
				for _, node := range []string{"n", "m"} {
					if err := ipam.MendLoans(t.Context(), c.store, node, only...); err != nil {
						t.Fatal(err)
					}
				}
				c.expectLoans("mended", tc.want...)
				c.check()
			})
		}
	}
}

// TestMendingALoanDependsOnItsBlock: whoever borrows between its look and its write keeps
// his record.
func TestMendingALoanDependsOnItsBlock(t *testing.T) {
	c, n, _, _ := borrowing(t)
	if _, err := ipam.ReleaseHandle(t.Context(), loanless{c.store}, "borrower"); err != nil {
		t.Fatal(err)
	}
	late := &interrupted{Client: c.store, before: func() { assign(t, n, "again", 1, 0) }}
	if err := ipam.MendLoans(t.Context(), late, "n"); err != nil {
		t.Fatal(err)
	}
	c.expectLoans("mended", "n/10.0.0.0-30")
	c.check()
}

// interrupted has something happen before its first transaction.
type interrupted struct {
	datastore.Client
	before func()
}

func (i *interrupted) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if before := i.before; before != nil {
		i.before = nil
		before()
	}
	return i.Client.Txn(ctx, ops...)
}

// TestALoanThatCanNotBeReadCountsByItsName and goes when nothing is borrowed.
func TestALoanThatCanNotBeReadCountsByItsName(t *testing.T) {
	c, n, _, _ := borrowing(t)
	c.store.RawPut(loanRoot+"n/10.0.0.0-30", []byte("{broken"))
	if err := ipam.MendLoans(t.Context(), c.store, "n"); err != nil {
		t.Fatal(err)
	}
	c.expectLoans("borrowed", "n/10.0.0.0-30")
	if _, err := n.ReleaseByHandle(t.Context(), "borrower"); err != nil {
		t.Fatal(err)
	}
	c.expectLoans("given back")
}

// TestOnlyTheFirstAddressFromABlockOfOthersWritesALoan, and none from an own block.
func TestOnlyTheFirstAddressFromABlockOfOthersWritesALoan(t *testing.T) {
	c := newCluster(t, newPool("p", "10.0.0.0/29", blockSize(30)), newNode("n", nil), newNode("m", nil))
	assign(t, c.allocator("m"), "lender", 1, 0)
	client := &recorder{Client: c.store}
	n := c.allocator("n", client)
	for i, handle := range []string{"claims", "own", "own2", "own3", "borrowed", "borrowed2"} {
		client.written = nil
		assign(t, n, handle, 1, 0)
		loans := 0
		for _, op := range client.written {
			if op.Key.Kind == api.KindIPAMLoan {
				loans++
			}
		}
		if want := []int{0, 0, 0, 0, 1, 0}[i]; loans != want {
			t.Errorf("%s: %d loans written, want %d", handle, loans, want)
		}
	}
	if err := ipamtest.Check(t.Context(), c.store); err != nil {
		t.Error(err)
	}
}
