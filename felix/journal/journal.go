// Package journal is felix's memory of its attachments on local disk: which ADD
// was begun, which answered, and what is still to be released. With it DEL works
// while the datastore is away, and no kill -9 leaks an address.
//
// It is a log of checksummed lines, rewritten when most of it is history. A
// write survives the death of the process at once, and that of the machine once
// it is synced; concurrent writers share one sync.
package journal

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Config is where the journal lives.
type Config struct {
	// Dir is made if absent. One process at a time may use it.
	Dir string
	Now func() time.Time
	Log *slog.Logger
}

// rewriteAt is the size of the log, in bytes, from which on it is rewritten
// when more than three quarters of it are history.
const rewriteAt = 256 << 10

// Journal is safe for concurrent use.
type Journal struct {
	dir string
	now func() time.Time
	log *slog.Logger

	mu      sync.Mutex
	file    *os.File
	entries map[ID]Entry
	size    int64 // bytes of whole lines in file
	written uint64
	// broken says that the file's end can't be trusted (a write or sync failed):
	// the next write starts a new file from entries.
	broken bool

	syncMu sync.Mutex
	synced uint64 // writes known to be durable
}

// Open reads the journal. Lines that can't be read are moved to a file beside it
// and reported; they never stop felix.
func Open(cfg Config) (*Journal, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, cannotOpen(err)
	}
	j := &Journal{dir: cfg.Dir, now: cfg.Now, log: cfg.Log}
	if j.now == nil {
		j.now = time.Now // the default of an injected clock
	}
	raw, err := os.ReadFile(j.path())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, cannotOpen(err)
	}
	entries, damaged := replay(raw)
	j.entries = entries
	if len(damaged) > 0 {
		if err := j.setAside(damaged); err != nil {
			return nil, err
		}
	}
	if err := j.rewrite(); err != nil {
		return nil, cannotOpen(err)
	}
	return j, nil
}

// cannotOpen also says what to do.
func cannotOpen(err error) error {
	switch {
	case errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("open journal: %w; move that directory away, it is no journal of felix's", err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("open journal: %w; move that file away, or set FELIX_JOURNALDIR to a directory", err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("open journal: %w; felix needs a directory it may write to: run it as root, or set FELIX_JOURNALDIR", err)
	}
	return fmt.Errorf("open journal: %w", err)
}

func (j *Journal) path() string { return filepath.Join(j.dir, "attachments.log") }

// setAside keeps damaged lines for whoever wants to look at them.
func (j *Journal) setAside(damaged [][]byte) error {
	path := filepath.Join(j.dir, "damaged-"+j.now().UTC().Format("20060102T150405.000000000"))
	var all []byte
	for _, line := range damaged {
		all = append(append(all, line...), '\n')
	}
	if err := os.WriteFile(path, all, 0o600); err != nil {
		return fmt.Errorf("set aside %d damaged journal lines: %w", len(damaged), err)
	}
	j.log.Error("journal lines could not be read and were set aside; an address may stay assigned without a pod: compare calicoctl ipam show --show-blocks with the pods of this node",
		"lines", len(damaged), "file", path)
	return nil
}

// Get is the entry of an attachment.
func (j *Journal) Get(id ID) (Entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[id]
	return e, ok
}

// Find lists the entries that match, in no order. match must not use the Journal.
func (j *Journal) Find(match func(Entry) bool) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []Entry
	for _, e := range j.entries {
		if match(e) {
			found = append(found, e)
		}
	}
	return found
}

// Entries are all entries, oldest first.
func (j *Journal) Entries() []Entry {
	all := j.Find(func(Entry) bool { return true })
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.String(), b.String()))
	})
	return all
}

// Put records an entry in place of the one with its ID. The entry survives the
// death of felix once Put returns, and that of the machine once Sync does.
// Since is set to now.
func (j *Journal) Put(e Entry) error {
	e.Since = j.now().UTC()
	if !e.valid() {
		return fmt.Errorf("write journal entry %s: network, container, plugin or state is missing", e.ID)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.append(record{Put: &e}, func() { j.entries[e.ID] = e })
}

// Drop forgets an entry; there being none is fine.
func (j *Journal) Drop(id ID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.entries[id]; !ok {
		return nil
	}
	return j.append(record{Drop: &id}, func() { delete(j.entries, id) })
}

// Forget drops an entry though the disk refuses to take that down: memory is right
// at once, and the file is written anew from it as soon as it can be.
func (j *Journal) Forget(id ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.entries, id)
	j.broken = true
}

// append writes a record and then applies it: what is in memory is on disk too.
// The caller holds mu.
func (j *Journal) append(r record, apply func()) error {
	if j.file == nil {
		return fmt.Errorf("write journal: %w", os.ErrClosed)
	}
	line := encode(r)
	if j.broken || j.size > rewriteAt && j.size > 4*j.liveSize() {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	if _, err := j.file.Write(line); err != nil {
		// Part of the line may be there: never write behind it.
		if j.file.Truncate(j.size) != nil {
			j.broken = true
		}
		return fmt.Errorf("write journal: %w", err)
	}
	j.size += int64(len(line))
	j.written++
	apply()
	return nil
}

// liveSize estimates the size of the log without its history.
func (j *Journal) liveSize() int64 { return int64(len(j.entries)) * 512 }

// Sync makes everything that was written before it durable. Callers that come
// while a sync runs share the next one.
func (j *Journal) Sync() error {
	j.mu.Lock()
	need := j.written
	j.mu.Unlock()

	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	if j.synced >= need {
		return nil
	}
	file, upTo, err := j.trusted()
	if err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	err = file.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil && j.file == file {
		// After a failed sync the kernel may have dropped the pages: only a new
		// file can be trusted.
		j.broken = true
		return fmt.Errorf("sync journal: %w", err)
	}
	// When the file was replaced meanwhile, the rewrite has synced all of it.
	j.synced = max(j.synced, upTo)
	return nil
}

// trusted is the file to sync and the number of writes in it. After a failed sync
// a second one may report success without having written anything, so a file
// that failed once is replaced first.
func (j *Journal) trusted() (*os.File, uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil, 0, os.ErrClosed
	}
	if j.broken {
		if err := j.rewrite(); err != nil {
			return nil, 0, err
		}
	}
	return j.file, j.written, nil
}

// rewrite replaces the log by the entries alone, durably. The caller holds mu.
func (j *Journal) rewrite() error {
	var all []byte
	for _, e := range j.entries {
		all = append(all, encode(record{Put: &e})...)
	}
	file, err := replaceFile(j.path(), all)
	if err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.broken = file, int64(len(all)), false
	return nil
}

// replaceFile puts content at path atomically and durably and returns the file,
// open for appending.
func replaceFile(path string, content []byte) (*os.File, error) {
	temp := path + ".new"
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// Close syncs and closes the file.
func (j *Journal) Close() error {
	err := j.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err = errors.Join(err, j.file.Close())
	j.file = nil
	return err
}
