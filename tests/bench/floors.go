package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"tortie/tests/lab"
)

// floors measures what no implementation can do without, beside the ADDs measured
// before: one datastore transaction of the same two keys, the start of a process,
// and one veth pair after the other, for the kernel makes no two at once.
func (b *bench) floors(ctx context.Context) error {
	txn, err := b.transactions(ctx)
	if err != nil {
		return err
	}
	pods, err := b.sandboxes("floor", b.burst)
	if err != nil {
		return err
	}
	starts, err := b.emptyAtOnce(pods)
	if err != nil {
		return err
	}
	veth, err := b.vethPairs(pods)
	if err != nil {
		return err
	}
	for _, r := range b.rows {
		switch r.what {
		case addOne:
			b.rows = append(b.rows, row{r.what, "one etcd transaction, block + handle", r.ours, txn, ""})
		case addBurst:
			b.rows = append(b.rows, row{r.what, "an empty static Go program, 32 at once", r.ours, starts, ""})
		}
	}
	b.rows = append(b.rows, row{"… without its processes", "a bare veth pair into the pod", b.alone, veth, "≤ 1.2 ms"})
	return b.removeSandboxes(pods)
}

// transactions writes a block and a handle of ordinary size, compare-and-swap, to
// the lab's etcd.
func (b *bench) transactions(ctx context.Context) (sample, error) {
	client, err := etcdOf(b.lab)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	block := strings.Repeat("x", 1500)
	var s sample
	var rev int64
	for i := range b.rounds {
		began := time.Now()
		resp, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision("/bench/block"), "=", rev),
				clientv3.Compare(clientv3.Version(fmt.Sprintf("/bench/handle/%d", i)), "=", 0)).
			Then(clientv3.OpPut("/bench/block", block), clientv3.OpPut(fmt.Sprintf("/bench/handle/%d", i), block[:80])).
			Commit()
		if err != nil {
			return nil, fmt.Errorf("bare transaction: %w", err)
		}
		if !resp.Succeeded {
			return nil, fmt.Errorf("bare transaction %d met a conflict", i)
		}
		s = append(s, time.Since(began))
		rev = resp.Header.Revision
	}
	return s, nil
}

// vethPairs makes bare veth pairs from the node into sandboxes, up at both ends,
// one after the other.
func (b *bench) vethPairs(pods []*lab.Pod) (sample, error) {
	var s sample
	for i, pod := range pods {
		err := b.lab.In("node1", func() error {
			began := time.Now()
			if err := bareVeth(fmt.Sprintf("bare%d", i), pod); err != nil {
				return err
			}
			s = append(s, time.Since(began))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func bareVeth(name string, pod *lab.Pod) error {
	fd, err := unix.Open(pod.Pause.Netns(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, Flags: net.FlagUp},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(fd),
	})
}
