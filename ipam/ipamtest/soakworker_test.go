package ipamtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd"
	"tortie/ipam"
)

// soakVariable has a soakOrder for a process that is a node of the soak test.
const soakVariable = "IPAMTEST_SOAK"

// soakOrder is what the test tells a node.
type soakOrder struct {
	Node, Endpoint string
	Life           int // how many there were of this node before
	Seed           uint64
	Workers        int
	// Held are the handles of the node's workloads, Recover those whose calls its
	// predecessor left unfinished: a journal would have them.
	Held, Recover []string
}

// soakLine is one call of a node: its beginning, or its end.
type soakLine struct {
	ID     int
	End    bool
	At     int64 // the same clock in all processes
	Call   string
	Handle string   `json:",omitempty"`
	Addrs  []string `json:",omitempty"` // asked for, or what came of it
	Holder string   `json:",omitempty"`
	// Result of a call that ended: ok, refused (nothing happened), unknown.
	Result string `json:",omitempty"`
}

// The calls of a node.
const (
	callAssign  = "assign"
	callRelease = "release"
	callLook    = "look"
)

// soakNode is one process of the soak test.
type soakNode struct {
	order  soakOrder
	client datastore.Client
	alloc  *ipam.Allocator

	mu   sync.Mutex
	out  *bufio.Writer
	next int
	held []string
}

// runSoakNode works until its standard input ends.
func runSoakNode(text string) error {
	n := &soakNode{out: bufio.NewWriter(os.Stdout)}
	if err := json.Unmarshal([]byte(text), &n.order); err != nil {
		return err
	}
	n.held = n.order.Held
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	n.client, err = etcd.New(ctx, etcd.Config{Config: datastore.Config{Endpoints: []string{n.order.Endpoint}}}, api.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	tracker := ipam.NewTracker(n.order.Node)
	for _, r := range tracker.Ranges() {
		var snap datastore.Snapshot
		if err := n.persist(func() (err error) { snap, err = n.client.List(ctx, r); return err }); err != nil {
			return err
		}
		for _, entry := range snap.Entries {
			tracker.Apply([]datastore.SyncUpdate{{Key: entry.Key, Entry: &entry}})
		}
	}
	recorder := ipam.NewRecorder(n.client, slog.New(slog.DiscardHandler))
	go func() { _ = recorder.Run(ctx) }()
	n.alloc = ipam.New(ipam.Config{Client: n.client, Node: n.order.Node, View: tracker, Recorder: recorder})
	defer n.alloc.Close()
	stop := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(stop) }()
	for _, handle := range n.order.Recover {
		n.release(ctx, handle, false)
	}
	var wg sync.WaitGroup
	for i := range n.order.Workers {
		rng := rand.New(rand.NewPCG(n.order.Seed, uint64(n.order.Life*n.order.Workers+i)))
		wg.Go(func() { n.work(ctx, rng, fmt.Sprintf("%s.%d.%d", n.order.Node, n.order.Life, i), stop) })
	}
	wg.Wait()
	return nil
}

// persist repeats a call as long as the store is away.
func (n *soakNode) persist(call func() error) error {
	for {
		if err := call(); !errors.Is(err, datastore.ErrUnavailable) {
			return err
		}
	}
}

func (n *soakNode) work(ctx context.Context, rng *rand.Rand, name string, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		switch rng.IntN(8) {
		case 0, 1, 2:
			n.assign(ctx, rng, fmt.Sprintf("%s.%d", name, i))
		case 3:
			n.look(ctx, rng)
		default:
			if handle, ok := n.take(rng); ok {
				n.release(ctx, handle, rng.IntN(4) == 0)
			}
		}
	}
}

// take chooses a handle to release; two workers never choose the same.
func (n *soakNode) take(rng *rand.Rand) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.held) == 0 {
		return "", false
	}
	at := rng.IntN(len(n.held))
	handle := n.held[at]
	n.held[at] = n.held[len(n.held)-1]
	n.held = n.held[:len(n.held)-1]
	return handle, true
}

// begin says that a call begins, and gives the function that says how it ended.
func (n *soakNode) begin(l soakLine) func(soakLine) {
	n.mu.Lock()
	n.next++
	l.ID = n.next
	n.mu.Unlock()
	n.say(l)
	return func(end soakLine) {
		end.ID, end.End, end.Call, end.Handle = l.ID, true, l.Call, l.Handle
		n.say(end)
	}
}

// say writes a line through to the reader, who may kill us for it.
func (n *soakNode) say(l soakLine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l.At = time.Now().UnixNano()
	text, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	_, _ = n.out.Write(append(text, '\n'))
	_ = n.out.Flush()
}

func (n *soakNode) assign(ctx context.Context, rng *rand.Rand, handle string) {
	req := ipam.Request{Handle: ipam.HandleID(handle), Num4: 1 + rng.IntN(2), Num6: rng.IntN(2), Attrs: map[string]string{api.AttributePod: handle}}
	if rng.IntN(5) == 0 {
		req.Num4, req.Num6, req.Addrs = 0, 0, []netip.Addr{soakAddr(rng)}
	}
	end := n.begin(soakLine{Call: callAssign, Handle: handle, Addrs: texts(req.Addrs)})
	away := false
	var got []ipam.Assignment
	err := n.persist(func() (err error) {
		got, err = n.alloc.AutoAssign(ctx, req)
		away = away || errors.Is(err, datastore.ErrUnavailable)
		return err
	})
	switch {
	case err == nil:
		var addrs []netip.Addr
		for _, a := range got {
			addrs = append(addrs, a.Addr)
		}
		end(soakLine{Result: "ok", Addrs: texts(addrs)})
		n.mu.Lock()
		n.held = append(n.held, handle)
		n.mu.Unlock()
	case away:
		end(soakLine{Result: "unknown"})
	default:
		end(soakLine{Result: "refused"})
	}
}

func (n *soakNode) release(ctx context.Context, handle string, outside bool) {
	end := n.begin(soakLine{Call: callRelease, Handle: handle})
	var addrs []netip.Addr
	err := n.persist(func() (err error) {
		if outside {
			addrs, err = ipam.ReleaseHandle(ctx, n.client, ipam.HandleID(handle))
		} else {
			addrs, err = n.alloc.ReleaseByHandle(ctx, ipam.HandleID(handle))
		}
		return err
	})
	if err != nil {
		end(soakLine{Result: "unknown"})
		return
	}
	end(soakLine{Result: "ok", Addrs: texts(addrs)})
}

func (n *soakNode) look(ctx context.Context, rng *rand.Rand) {
	addr := soakAddr(rng)
	end := n.begin(soakLine{Call: callLook, Addrs: texts([]netip.Addr{addr})})
	var info ipam.AddressInfo
	err := n.persist(func() (err error) { info, err = ipam.Lookup(ctx, n.client, addr); return err })
	if err != nil {
		end(soakLine{Result: "unknown", Addrs: texts([]netip.Addr{addr})})
		return
	}
	end(soakLine{Result: "ok", Addrs: texts([]netip.Addr{addr}), Holder: string(info.Handle)})
}

// soakAddr is any address of the IPv4 pool.
func soakAddr(rng *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(128))})
}

func texts(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
