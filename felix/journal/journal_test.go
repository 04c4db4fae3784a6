package journal

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func open(t *testing.T, dir string) (*Journal, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	tick := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	j, err := Open(Config{
		Dir: dir,
		Now: func() time.Time { tick = tick.Add(time.Second); return tick },
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, &log
}

func entry(n int, state State) Entry {
	return Entry{
		ID:    ID{Network: "net1", ContainerID: fmt.Sprintf("container-%d", n), IfName: "eth0"},
		State: state, Plugin: "calico", Namespace: "default", Endpoint: "node1-cni-x-eth0",
		HostIf: "cali0123456789a", Netns: "/run/netns/a", MAC: "0a:00:00:00:00:01", MTU: 1500,
		Addrs: []netip.Addr{netip.MustParseAddr("10.65.0.1"), netip.MustParseAddr("fd00::1")},
	}
}

func put(t *testing.T, j *Journal, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := j.Put(e); err != nil {
			t.Fatal(err)
		}
	}
}

func wantEntries(t *testing.T, j *Journal, want ...Entry) {
	t.Helper()
	diff := cmp.Diff(want, j.Entries(), cmpopts.IgnoreFields(Entry{}, "Since"), cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
	if diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// abandon leaves the journal as kill -9 does: nothing synced, nothing closed.
func abandon(j *Journal) { j.file = nil }

func TestEntriesSurviveKill(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	put(t, j, entry(1, StateAdding), entry(2, StateAttached), entry(3, StateAdding))
	put(t, j, entry(1, StateAttached), entry(2, StateReleasing))
	if err := j.Drop(entry(3, "").ID); err != nil {
		t.Fatal(err)
	}
	abandon(j)
	again, _ := open(t, dir)
	wantEntries(t, again, entry(1, StateAttached), entry(2, StateReleasing))
}

func TestDropOfUnknownEntryWritesNothing(t *testing.T) {
	j, _ := open(t, t.TempDir())
	if err := j.Drop(ID{Network: "n", ContainerID: "c"}); err != nil || j.size != 0 {
		t.Errorf("error %v, %d bytes written", err, j.size)
	}
}

func TestDamagedLinesAreSetAsideAndReported(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a flipped bit":      func(l []byte) []byte { l = bytes.Clone(l); l[30] ^= 4; return l },
		"a cut line":         func(l []byte) []byte { return append(bytes.Clone(l[:len(l)/2]), '\n') },
		"an empty line":      func([]byte) []byte { return []byte{'\n'} },
		"zeroes":             func(l []byte) []byte { return append(make([]byte, len(l)-1), '\n') },
		"an entry of no use": func([]byte) []byte { l := encode(record{Put: &Entry{}}); return l },
		"put and drop": func([]byte) []byte {
			e := entry(2, StateAdding)
			l := encode(record{Put: &e, Drop: &e.ID})
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, _ := open(t, dir)
			put(t, j, entry(1, StateAttached), entry(2, StateReleasing), entry(3, StateReleasing))
			abandon(j)
			path := filepath.Join(dir, "attachments.log")
			raw, _ := os.ReadFile(path)
			lines := bytes.SplitAfter(raw, []byte{'\n'})
			lines[1] = damage(lines[1])
			if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
				t.Fatal(err)
			}

			again, log := open(t, dir)
			wantEntries(t, again, entry(1, StateAttached), entry(3, StateReleasing))
			aside, _ := filepath.Glob(filepath.Join(dir, "damaged-*"))
			if len(aside) != 1 || !strings.Contains(log.String(), aside[0]) {
				t.Errorf("set aside %v, log %s", aside, log)
			}
			third, log := open(t, dir)
			wantEntries(t, third, entry(1, StateAttached), entry(3, StateReleasing))
			if log.Len() != 0 {
				t.Errorf("damage reported twice: %s", log)
			}
		})
	}
}

func TestJournalThatCannotBeOpenedSaysWhatToDo(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(dir string) error
		says    string
	}{
		"a directory in place of the log":     {func(dir string) error { return os.MkdirAll(filepath.Join(dir, "attachments.log", "x"), 0o700) }, "move that directory away"},
		"a directory in place of the new log": {func(dir string) error { return os.MkdirAll(filepath.Join(dir, "attachments.log.new", "x"), 0o700) }, "move that directory away"},
		"a file in place of the directory":    {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "move that file away"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "journal")
			if err := tc.prepare(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
			if err == nil || !strings.Contains(err.Error(), "open journal: ") || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
		})
	}
}

func TestHalfWrittenLastLineDoesNotDamageTheNext(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	put(t, j, entry(1, StateAttached), entry(2, StateReleasing))
	abandon(j)
	path := filepath.Join(dir, "attachments.log")
	raw, _ := os.ReadFile(path)
	for cut := bytes.IndexByte(raw, '\n') + 2; cut < len(raw); cut += 17 {
		if err := os.WriteFile(path, raw[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, dir)
		put(t, again, entry(3, StateAdding))
		abandon(again)
		third, _ := open(t, dir)
		wantEntries(t, third, entry(1, StateAttached), entry(3, StateAdding))
	}
}

func TestLogIsRewrittenWhenMostlyHistory(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	put(t, j, entry(0, StateAttached))
	for range 3000 {
		put(t, j, entry(1, StateAdding), entry(1, StateAttached))
		if err := j.Drop(entry(1, "").ID); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "attachments.log"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > rewriteAt+4096 {
		t.Errorf("log has %d bytes for one entry", info.Size())
	}
	abandon(j)
	again, _ := open(t, dir)
	wantEntries(t, again, entry(0, StateAttached))
}

func TestWriteAfterFailedWriteStartsNewFile(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	put(t, j, entry(1, StateAttached))
	readOnly, err := os.Open(filepath.Join(dir, "attachments.log"))
	if err != nil {
		t.Fatal(err)
	}
	j.file = readOnly
	if err := j.Put(entry(2, StateAdding)); err == nil {
		t.Fatal("write to a read-only file succeeded")
	}
	wantEntries(t, j, entry(1, StateAttached))
	put(t, j, entry(3, StateReleasing))
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	again, log := open(t, dir)
	wantEntries(t, again, entry(1, StateAttached), entry(3, StateReleasing))
	if log.Len() != 0 {
		t.Errorf("damage after a failed write: %s", log)
	}
}

func TestConcurrentWritersAllBecomeDurable(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			if err := j.Put(entry(n, StateReleasing)); err != nil {
				t.Error(err)
			}
			if err := j.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	abandon(j)
	again, _ := open(t, dir)
	if n := len(again.Entries()); n != 64 {
		t.Errorf("%d entries, want 64", n)
	}
}

func TestClosedJournalRefusesWrites(t *testing.T) {
	j, _ := open(t, t.TempDir())
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if j.Put(entry(1, StateAdding)) == nil {
		t.Error("a closed journal took a write")
	}
}

func FuzzReplay(f *testing.F) {
	e := entry(1, StateReleasing)
	line := encode(record{Put: &e})
	f.Add(line)
	f.Add([]byte("00000000 {}\n"))
	f.Add(append([]byte("rubbish\n"), line...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		before, _ := replay(raw)
		// Whatever stood before, a whole line behind it is read.
		after, _ := replay(append(append(bytes.Clone(raw), '\n'), line...))
		if got, ok := after[e.ID]; !ok || got.State != StateReleasing {
			t.Fatalf("a whole record behind %q was lost", raw)
		}
		for id, e := range before {
			if !e.valid() || id != e.ID {
				t.Fatalf("unusable entry %+v", e)
			}
		}
	})
}

// What was finished without the disk is forgotten at once, and by the file too as
// soon as it can be written again.
func TestForgottenEntryDoesNotComeBack(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	gone, stays := entry(1, StateAttached), entry(2, StateAttached)
	for _, e := range []Entry{gone, stays} {
		if err := j.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	j.Forget(gone.ID)
	if _, ok := j.Get(gone.ID); ok {
		t.Error("still in memory")
	}
	if err := j.Put(stays); err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, dir)
	if _, ok := again.Get(gone.ID); ok {
		t.Error("the file still has it")
	}
	if _, ok := again.Get(stays.ID); !ok {
		t.Error("the file lost another")
	}
}
