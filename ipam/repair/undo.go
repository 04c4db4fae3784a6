package repair

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam"
)

// The undo file is one JSON value a line: a header, then a line for each transaction,
// written before it is carried out, and one that cancels the last when it wasn't.
type undoLine struct {
	// The header.
	Tool        string     `json:"tool,omitempty"`
	ClusterGUID string     `json:"clusterGUID,omitempty"`
	Time        *time.Time `json:"time,omitempty"`
	// A transaction.
	Step    int          `json:"step,omitempty"`
	For     string       `json:"for,omitempty"`
	Changes []undoChange `json:"changes,omitempty"`
	// Cancelled is a step that was not carried out.
	Cancelled int `json:"cancelled,omitempty"`
}

// undoChange is what was under a path and what came in its place; nil for nothing.
type undoChange struct {
	Path   string  `json:"path"`
	Before *string `json:"before"`
	After  *string `json:"after"`
	// Beside are the blocks that a deleted block overlapped.
	Beside []string `json:"beside,omitempty"`
	// Inexact says that Before says the same as what was stored, in other bytes.
	Inexact bool `json:"inexact,omitempty"`
}

const undoTool = "calicoctl ipam fsck"

// Recorder writes an undo file.
type Recorder struct {
	// Sync makes what was written last; nil where there is nothing to do.
	Sync func() error

	w    io.Writer
	reg  *api.Registry
	step int
}

// NewRecorder begins an undo file.
func NewRecorder(w io.Writer, reg *api.Registry, clusterGUID string, now time.Time) (*Recorder, error) {
	r := &Recorder{w: w, reg: reg}
	now = now.UTC()
	return r, r.write(undoLine{Tool: undoTool, ClusterGUID: clusterGUID, Time: &now})
}

func (r *Recorder) write(line undoLine) error {
	raw, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("write the undo file: %w", err)
	}
	if _, err := r.w.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write the undo file: %w", err)
	}
	if r.Sync == nil {
		return nil
	}
	if err := r.Sync(); err != nil {
		return fmt.Errorf("write the undo file: %w", err)
	}
	return nil
}

// Record writes down a transaction that is about to be carried out.
func (r *Recorder) Record(what string, changes []Change) error {
	r.step++
	line := undoLine{Step: r.step, For: what}
	for _, c := range changes {
		path, err := r.reg.Path(c.Key)
		if err != nil {
			return fmt.Errorf("write the undo file: %w", err)
		}
		u := undoChange{Path: path, Beside: c.Beside}
		before, exact, err := encode(r.reg, c.Before)
		if err != nil {
			return fmt.Errorf("write the undo file: %w", err)
		}
		after, _, err := encode(r.reg, c.After)
		if err != nil {
			return fmt.Errorf("write the undo file: %w", err)
		}
		u.Before, u.After, u.Inexact = pointer(before), pointer(after), !exact
		line.Changes = append(line.Changes, u)
	}
	return r.write(line)
}

// Cancel writes down that the last transaction was not carried out.
func (r *Recorder) Cancel() error { return r.write(undoLine{Cancelled: r.step}) }

func pointer(value []byte) *string {
	if value == nil {
		return nil
	}
	s := string(value)
	return &s
}

// Undo is a parsed undo file.
type Undo struct {
	ClusterGUID string
	Time        time.Time
	steps       []undoStep
	// first is what was under each key before everything.
	first map[api.Key][]byte
}

type undoStep struct {
	number  int
	what    string
	changes []valueChange
}

// valueChange is what was under a key, and what came in its place; nil for nothing.
type valueChange struct {
	key           api.Key
	before, after []byte
	beside        []string
}

// ReadUndo reads an undo file. A last line that was cut off is a transaction that
// was never carried out.
func ReadUndo(r io.Reader, reg *api.Registry) (Undo, error) {
	u := Undo{first: map[api.Key][]byte{}}
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		raw, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if n == 1 {
				return Undo{}, errors.New("it is empty")
			}
			return u, nil
		}
		if err != nil {
			return Undo{}, err
		}
		var line undoLine
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&line); err != nil {
			return Undo{}, fmt.Errorf("line %d is none of an undo file", n)
		}
		if (n == 1) != (line.Tool == undoTool && line.Time != nil) {
			return Undo{}, fmt.Errorf("line %d is none of an undo file", n)
		}
		if err := u.take(line, reg); err != nil {
			return Undo{}, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

func (u *Undo) take(line undoLine, reg *api.Registry) error {
	switch {
	case line.Tool != "":
		u.ClusterGUID, u.Time = line.ClusterGUID, *line.Time
	case line.Cancelled > 0:
		u.steps = slices.DeleteFunc(u.steps, func(s undoStep) bool { return s.number == line.Cancelled })
	case line.Step > 0:
		s := undoStep{number: line.Step, what: line.For}
		for _, c := range line.Changes {
			v, err := c.parse(reg)
			if err != nil {
				return err
			}
			s.changes = append(s.changes, v)
			if _, known := u.first[v.key]; !known {
				u.first[v.key] = v.before
			}
		}
		u.steps = append(u.steps, s)
	}
	return nil
}

func (c undoChange) parse(reg *api.Registry) (valueChange, error) {
	key, err := reg.ParsePath(c.Path)
	if err != nil {
		return valueChange{}, err
	}
	if !recorded(key.Kind) {
		return valueChange{}, fmt.Errorf("%s is nothing that fsck changes", key)
	}
	v := valueChange{key: key, beside: c.Beside}
	for _, side := range []struct {
		text *string
		to   *[]byte
	}{{c.Before, &v.before}, {c.After, &v.after}} {
		if side.text == nil {
			continue
		}
		if _, _, err := reg.Decode(key, []byte(*side.text)); err != nil {
			return valueChange{}, err
		}
		*side.to = []byte(*side.text)
	}
	return v, nil
}

// Steps counts the transactions.
func (u Undo) Steps() int { return len(u.steps) }

// Undone is what became of one transaction.
type Undone struct {
	// What it had been for.
	What string
	// Changes are those made to undo it.
	Changes []Change
	// Already: the store holds what was before.
	Already bool
	// Refused is why it was left as it is; nil when it was undone.
	Refused error
}

// Apply undoes the transactions, the last one first, and tells each. One whose keys
// hold something else than it left is refused: somebody has used it since. With
// dryRun nothing is written.
func (u Undo) Apply(ctx context.Context, client datastore.Client, reg *api.Registry, dryRun bool, tell func(Undone)) error {
	if dryRun {
		client = NewOverlay(client)
	}
	for _, s := range slices.Backward(u.steps) {
		done, ops, err := u.undo(ctx, s, client, reg)
		if err != nil {
			return err
		}
		if len(ops) > 0 {
			_, err := client.Txn(ctx, ops...)
			if errors.Is(err, datastore.ErrConflict) {
				done.Refused = fmt.Errorf("changed this moment: %w", err)
			} else if err != nil {
				return err
			}
		}
		tell(done)
	}
	return nil
}

func (u Undo) undo(ctx context.Context, s undoStep, client datastore.Client, reg *api.Registry) (Undone, []datastore.Op, error) {
	done := Undone{What: s.what, Already: true}
	var ops []datastore.Op
	for _, c := range s.changes {
		now, err := present(ctx, client, c.key)
		if errors.Is(err, datastore.ErrInvalid) {
			refused := Undone{What: s.what, Refused: fmt.Errorf("%s has changed since, and can't be read", c.key)}
			return refused, nil, nil
		}
		if err != nil {
			return done, nil, err
		}
		value, _, err := encode(reg, now)
		if err != nil {
			return done, nil, err
		}
		done.Already = done.Already && u.restored(c, value)
		if !same(value, c.after) {
			done.Refused = fmt.Errorf("%s has changed since", c.key)
		}
		if done.Refused == nil {
			if done.Refused, err = c.inTheWay(ctx, client, now); err != nil {
				return done, nil, err
			}
		}
		op, change, err := c.back(now, reg)
		if err != nil {
			return done, nil, err
		}
		ops, done.Changes = append(ops, ipam.WithLoans(now, op)...), append(done.Changes, change)
	}
	if done.Already {
		done.Refused = nil
	}
	if done.Already || done.Refused != nil {
		done.Changes, ops = nil, nil
	}
	return done, ops, nil
}

// restored reports that a key has what it had before the change, or before all of them.
func (u Undo) restored(c valueChange, value []byte) bool {
	return same(value, c.before) || same(value, u.first[c.key])
}

// inTheWay says which block has been made since where one that is gone is to come back.
func (c valueChange) inTheWay(ctx context.Context, client datastore.Client, now *datastore.Entry) (refused, err error) {
	if now != nil || c.before == nil || c.key.Kind != api.KindIPAMBlock {
		return nil, nil
	}
	others, err := overlapping(ctx, client, c.key)
	if err != nil {
		return nil, err
	}
	others = slices.DeleteFunc(others, func(name string) bool { return slices.Contains(c.beside, name) })
	if len(others) > 0 {
		refused = fmt.Errorf("block %s has addresses of %s by now", others[0], c.key.Name)
	}
	return refused, nil
}

// overlapping are the blocks that have addresses of a block, those that can't be read
// too.
func overlapping(ctx context.Context, client datastore.Client, key api.Key) ([]string, error) {
	block, err := netip.ParsePrefix(key.Name)
	if err != nil {
		return nil, err
	}
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(snap.Entries)+len(snap.Invalid))
	for _, e := range snap.Entries {
		names = append(names, e.Key.Name)
	}
	for i := range snap.Invalid {
		names = append(names, snap.Invalid[i].Key.Name)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		other, err := netip.ParsePrefix(name)
		return err != nil || other == block || !other.Overlaps(block)
	}), nil
}

// same compares values; nil is no value.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

// back is the operation that puts before in the place of what is there now.
func (c valueChange) back(now *datastore.Entry, reg *api.Registry) (datastore.Op, Change, error) {
	change := Change{Key: c.key, Before: now}
	var revision datastore.Revision
	if now != nil {
		revision = now.Revision
	}
	if c.before == nil {
		if now == nil {
			return datastore.Check(c.key, 0), change, nil
		}
		return datastore.Delete(c.key, revision), change, nil
	}
	obj, unknown, err := reg.Decode(c.key, c.before)
	if err != nil {
		return datastore.Op{}, change, err
	}
	change.After = &datastore.Entry{Key: c.key, Object: obj, Unknown: unknown, Revision: revision}
	if now != nil {
		return datastore.Update(*change.After), change, nil
	}
	op := datastore.Create(c.key, obj)
	op.Unknown = unknown
	return op, change, nil
}
