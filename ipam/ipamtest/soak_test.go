package ipamtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/etcd/etcdtest"
	"tortie/ipam"
	"tortie/ipam/ipamtest"
)

// soakNodes is how many processes work at once.
const soakNodes = 8

// soak is the test's side: it starts the nodes, kills them, and keeps the history of
// what they were told.
type soak struct {
	t       *testing.T
	rng     *rand.Rand
	server  *etcdtest.Server
	lines   chan soakEvent
	nodes   []*soakProcess
	calls   []*soakCall
	stopped bool
}

// soakProcess is one life of a node.
type soakProcess struct {
	name string
	life int
	cmd  *exec.Cmd
	in   io.Closer
	open map[int]*soakCall
	held map[string]bool
	// journal has the handles that must be released: their calls died with a process.
	journal map[string]bool
}

// soakCall is one call, from its beginning to its end, if it had one.
type soakCall struct {
	begin soakLine
	end   soakLine // Result is empty for a call that died with its process
}

// soakEvent is a line of a process, or its end.
type soakEvent struct {
	from *soakProcess
	line soakLine
	eof  bool
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSoak has eight processes assign, borrow, look and release on a real etcd, kills
// them and etcd at random moments, and checks that what all of them were told can have
// happened in one order, that no address was given to two, and that nothing leaks.
//
//	SOAK_CALLS=100000   how long it goes on (make soak)
//	SOAK_SEED=1         repeats the decisions of a run that printed it
func TestSoak(t *testing.T) {
	calls, seed := number(t, "SOAK_CALLS", 1500), number(t, "SOAK_SEED", uint64(time.Now().UnixNano()))
	t.Logf("SOAK_SEED=%d SOAK_CALLS=%d", seed, calls)
	s := &soak{t: t, rng: rand.New(rand.NewPCG(seed, 0)), server: etcdtest.Start(t, etcdtest.Options{}), lines: make(chan soakEvent)}
	admin := connect(t, s.server)
	var names []string
	for i := range soakNodes {
		names = append(names, fmt.Sprintf("node%d", i))
	}
	populate(t, admin, map[string]string{"p4": "10.0.0.0/25", "p6": "fd00::/120"}, map[string]int{"p4": 29, "p6": 125}, names...)
	for _, name := range names {
		s.nodes = append(s.nodes, s.start(&soakProcess{name: name}, seed))
	}
	kills, restarts := s.drive(int(calls), seed)
	t.Logf("%d calls, %d nodes killed, etcd killed %d times", len(s.calls), kills, restarts)
	s.verify(admin)
}

// start begins a life of a node.
func (s *soak) start(p *soakProcess, seed uint64) *soakProcess {
	s.t.Helper()
	p.open = map[int]*soakCall{}
	if p.held == nil {
		p.held, p.journal = map[string]bool{}, map[string]bool{}
	}
	order, err := json.Marshal(soakOrder{
		Node: p.name, Endpoint: s.server.Endpoint(), Life: p.life, Seed: seed, Workers: 4,
		Held: slices.Sorted(maps.Keys(p.held)), Recover: slices.Sorted(maps.Keys(p.journal)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), soakVariable+"="+string(order))
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // harmless when it has ended
	go func() {
		r := bufio.NewReader(out)
		for {
			text, err := r.ReadBytes('\n')
			var line soakLine
			if err != nil || json.Unmarshal(text, &line) != nil { // the last line of a killed process may be half
				s.lines <- soakEvent{from: p, eof: true}
				return
			}
			s.lines <- soakEvent{from: p, line: line}
		}
	}()
	return p
}

// drive takes in what the nodes say, kills them and etcd now and then, and returns when
// all have come to their end.
func (s *soak) drive(calls int, seed uint64) (kills, restarts int) {
	next := 50 + s.rng.IntN(100)
	ended := 0
	for running := len(s.nodes); running > 0; {
		e := <-s.lines
		if !e.eof {
			s.take(e.from, e.line)
			if e.line.End {
				ended++
			}
			if ended >= calls && !s.stopped {
				s.stopped = true
				for _, p := range s.nodes {
					_ = p.in.Close()
				}
			}
			if ended >= next && !s.stopped {
				next = ended + 50 + s.rng.IntN(100)
				if s.rng.IntN(4) == 0 {
					restarts++
					s.server.Kill()
					s.server.Restart()
				} else {
					kills++
					_ = s.nodes[s.rng.IntN(len(s.nodes))].cmd.Process.Kill() // gone already: its end comes
				}
			}
			continue
		}
		_ = e.from.cmd.Wait() // reports the signal
		at := slices.Index(s.nodes, e.from)
		s.bury(e.from)
		if s.stopped && len(e.from.journal) == 0 {
			running--
			continue
		}
		s.nodes[at] = s.start(&soakProcess{name: e.from.name, life: e.from.life + 1, held: e.from.held, journal: e.from.journal}, seed)
		if s.stopped {
			_ = s.nodes[at].in.Close()
		}
	}
	return kills, restarts
}

// take keeps a line.
func (s *soak) take(p *soakProcess, l soakLine) {
	if !l.End {
		c := &soakCall{begin: l}
		s.calls = append(s.calls, c)
		p.open[l.ID] = c
		if l.Call == callRelease {
			delete(p.held, l.Handle)
		}
		return
	}
	c := p.open[l.ID]
	if c == nil {
		s.t.Errorf("%s: the end of a call that never began: %+v", p.name, l)
		return
	}
	c.end = l
	delete(p.open, l.ID)
	switch {
	case l.Call == callAssign && l.Result == "ok":
		p.held[l.Handle] = true
	case l.Call == callRelease && l.Result == "ok":
		delete(p.journal, l.Handle)
	}
}

// bury notes the handles of the calls that died with a process, for its successor.
func (s *soak) bury(p *soakProcess) {
	for _, c := range p.open {
		if c.begin.Handle != "" {
			p.journal[c.begin.Handle] = true
		}
	}
}

// verify compares the store with what the nodes were told, has everything that nobody
// was told of collected, checks the history, and takes everything down.
func (s *soak) verify(admin datastore.Client) {
	ctx, t := context.Background(), s.t
	s.strict(ctx)
	for _, c := range s.calls { // what a living allocator had not yet taken back when it ended
		if c.begin.Call == callAssign && c.end.Result != "ok" {
			if _, err := ipam.ReleaseHandle(ctx, admin, ipam.HandleID(c.begin.Handle)); err != nil {
				t.Fatal(err)
			}
		}
	}
	model := ipamtest.NewModel()
	for handle, addrs := range s.holdings() {
		if err := model.Assigned(handle, addrs); err != nil {
			t.Error(err)
		}
	}
	if err := model.Verify(ctx, admin); err != nil {
		t.Error(err)
	}
	s.linearizable()
	for handle := range s.holdings() {
		if _, err := ipam.ReleaseHandle(ctx, admin, ipam.HandleID(handle)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range s.nodes {
		if _, err := ipam.ReleaseHost(ctx, admin, p.name); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []api.Kind{api.KindIPAMBlock, api.KindBlockAffinity, api.KindIPAMHandle} {
		snap, err := admin.List(ctx, datastore.Range{Kind: kind})
		if err != nil || len(snap.Entries)+len(snap.Invalid) > 0 {
			t.Errorf("after releasing everything: %d of %s are left: %v", len(snap.Entries)+len(snap.Invalid), kind, err)
		}
	}
}

// strict reads every key in the store as strictly as can be.
func (s *soak) strict(ctx context.Context) {
	all, err := s.server.Bare(ctx).Get(ctx, "/calico/", clientv3.WithPrefix())
	if err != nil {
		s.t.Fatal(err)
	}
	reg := api.NewRegistry()
	for _, kv := range all.Kvs {
		if err := ipamtest.CheckRaw(reg, string(kv.Key), kv.Value); err != nil {
			s.t.Error(err)
		}
	}
}

// holdings are the handles whose callers were told of addresses, and have not begun to
// release them.
func (s *soak) holdings() map[string][]netip.Addr {
	held := map[string][]netip.Addr{}
	for _, c := range s.calls {
		switch {
		case c.begin.Call == callAssign && c.end.Result == "ok":
			for _, text := range c.end.Addrs {
				held[c.begin.Handle] = append(held[c.begin.Handle], netip.MustParseAddr(text))
			}
		case c.begin.Call == callRelease:
			delete(held, c.begin.Handle)
		}
	}
	return held
}

// history is what happened to each address, as far as anybody was told or has seen.
type history map[string][]porcupine.Operation

// event is one operation on an address. maybe: it may have had no effect.
type event struct {
	what   string
	handle string
	maybe  bool
}

func (s *soak) linearizable() {
	all := s.history()
	events := 0
	for _, addr := range slices.Sorted(maps.Keys(all)) {
		events += len(all[addr])
		switch porcupine.CheckOperationsTimeout(addressModel(), all[addr], time.Minute) {
		case porcupine.Ok:
		case porcupine.Unknown:
			s.t.Errorf("%s: its history of %d events is too tangled to check within a minute", addr, len(all[addr]))
		case porcupine.Illegal:
			s.t.Errorf("%s: no order of events explains what the nodes were told:", addr)
			for _, op := range all[addr] {
				s.t.Logf("  %d to %d: %+v", op.Call, op.Return, op.Input)
			}
		}
	}
	s.t.Logf("%d events on %d addresses are in order", events, len(all))
}

// addressModel is one address: somebody's or nobody's.
func addressModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{""} },
		Step: func(state, input, _ any) []any {
			e, holder := input.(event), state.(string)
			var after []any
			switch {
			case e.what == callLook && holder == e.handle:
				return []any{holder}
			case e.what == callAssign && holder == "":
				after = []any{e.handle}
			case e.what == callRelease && holder == e.handle:
				after = []any{""}
			case e.what == callRelease:
				return []any{holder}
			}
			if e.maybe {
				after = append(after, holder)
			}
			return after
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return m.ToModel()
}

// history sorts the calls by address. Of calls whose outcome nobody was told, those
// addresses count at which their handle was seen.
func (s *soak) history() history {
	told, seen := map[string]map[string]bool{}, map[string]map[string]bool{}
	note := func(m map[string]map[string]bool, handle string, addrs ...string) {
		if m[handle] == nil {
			m[handle] = map[string]bool{}
		}
		for _, addr := range addrs {
			m[handle][addr] = true
		}
	}
	for _, c := range s.calls {
		switch {
		case c.end.Result != "ok":
		case c.begin.Call == callAssign:
			note(told, c.begin.Handle, c.end.Addrs...)
		case c.begin.Call == callRelease:
			note(seen, c.begin.Handle, c.end.Addrs...)
		case c.end.Holder != "":
			note(seen, c.end.Holder, c.end.Addrs...)
		}
	}
	h := history{}
	for _, c := range s.calls {
		for addr := range told[c.begin.Handle] {
			delete(seen[c.begin.Handle], addr)
		}
		s.addCall(h, c, told[c.begin.Handle], seen[c.begin.Handle])
	}
	return h
}

func (s *soak) addCall(h history, c *soakCall, told, seen map[string]bool) {
	until := int64(math.MaxInt64)
	if c.end.Result == "ok" {
		until = c.end.At
	}
	add := func(addr string, e event, until int64) {
		h[addr] = append(h[addr], porcupine.Operation{ClientId: len(h[addr]), Input: e, Call: c.begin.At, Return: until})
	}
	switch c.begin.Call {
	case callLook:
		if c.end.Result == "ok" {
			add(c.end.Addrs[0], event{what: callLook, handle: c.end.Holder}, until)
		}
	case callAssign:
		if c.end.Result == "ok" {
			for addr := range told {
				add(addr, event{what: callAssign, handle: c.begin.Handle}, until)
			}
		}
		for addr := range seen { // an attempt that nobody was told of, and its undoing
			add(addr, event{what: callAssign, handle: c.begin.Handle, maybe: true}, math.MaxInt64)
			add(addr, event{what: callRelease, handle: c.begin.Handle, maybe: true}, math.MaxInt64)
		}
	case callRelease:
		for _, addrs := range []map[string]bool{told, seen} {
			for addr := range addrs {
				add(addr, event{what: callRelease, handle: c.begin.Handle, maybe: c.end.Result != "ok"}, until)
			}
		}
	}
}
