package record

import (
	"errors"
	"fmt"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// Step is one operation of a transaction, ready for a store of bytes.
type Step struct {
	Op    datastore.Op
	Path  string
	Value []byte // what a Create, Update or Put writes
}

// Compares reports whether the step depends on the present revision of its path.
// If so the revision must equal Op.Revision, where 0 means that the path is
// absent.
func (s Step) Compares() bool {
	return s.Op.Kind != datastore.OpPut && s.Op.Kind != datastore.OpDeleteAny
}

// Writes reports whether the step puts Value under Path.
func (s Step) Writes() bool {
	switch s.Op.Kind {
	case datastore.OpCreate, datastore.OpUpdate, datastore.OpPut:
		return true
	default:
		return false
	}
}

// Deletes reports whether the step removes Path.
func (s Step) Deletes() bool {
	return s.Op.Kind == datastore.OpDelete || s.Op.Kind == datastore.OpDeleteAny
}

// Plan encodes the operations of one transaction. It refuses what no store could
// carry out: no operation at all, more than datastore.MaxTxnOps, a key named
// twice, an object under another object's key, an update or delete of something
// that was never read.
func (c Codec) Plan(ops []datastore.Op) ([]Step, error) {
	if len(ops) == 0 {
		return nil, errors.New("transaction: no operations")
	}
	if len(ops) > datastore.MaxTxnOps {
		return nil, fmt.Errorf("transaction: %d operations, at most %d fit into one", len(ops), datastore.MaxTxnOps)
	}
	steps := make([]Step, 0, len(ops))
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		step, err := c.step(op)
		if err != nil {
			return nil, err
		}
		if seen[step.Path] {
			return nil, fmt.Errorf("transaction: %s is named twice", op.Key)
		}
		seen[step.Path] = true
		steps = append(steps, step)
	}
	return steps, nil
}

func (c Codec) step(op datastore.Op) (Step, error) {
	path, err := c.reg.Path(op.Key)
	if err != nil {
		return Step{}, fmt.Errorf("%s %w", op.Kind, err)
	}
	step := Step{Op: op, Path: path}
	switch op.Kind {
	case datastore.OpCreate, datastore.OpPut:
		if err := c.checkKey(op); err != nil {
			return Step{}, err
		}
	case datastore.OpUpdate, datastore.OpDelete:
		if op.Revision <= 0 {
			return Step{}, fmt.Errorf("%s %s: no revision: read the object first", op.Kind, op.Key)
		}
	case datastore.OpCheck, datastore.OpDeleteAny:
	default:
		return Step{}, fmt.Errorf("transaction: %s: unknown operation %d", op.Key, int(op.Kind))
	}
	if !step.Writes() {
		return step, nil
	}
	if op.Object == nil {
		return Step{}, fmt.Errorf("%s %s: no object", op.Kind, op.Key)
	}
	if step.Value, err = c.reg.Encode(op.Object, op.Unknown); err != nil {
		return Step{}, fmt.Errorf("%s %s: %w", op.Kind, op.Key, err)
	}
	return step, nil
}

// checkKey refuses to store an object under a key that isn't its own. The IPAM
// kinds are the exception: their name lives in the key alone and the object may
// leave it out.
func (c Codec) checkKey(op datastore.Op) error {
	if op.Object == nil {
		return fmt.Errorf("%s %s: no object", op.Kind, op.Key)
	}
	if op.Object.GetName() == "" && isIPAM(op.Key.Kind) {
		return nil
	}
	key, err := c.reg.KeyOf(op.Object)
	if err != nil {
		return fmt.Errorf("%s %s: %w", op.Kind, op.Key, err)
	}
	if key != op.Key {
		return fmt.Errorf("%s %s: the object is %s", op.Kind, op.Key, key)
	}
	return nil
}

func isIPAM(kind api.Kind) bool {
	switch kind {
	case api.KindBlockAffinity, api.KindIPAMBlock, api.KindIPAMConfig, api.KindIPAMHandle:
		return true
	default:
		return false
	}
}

// Conflict describes why a planned transaction can't be applied to a store that
// holds current (by path), or is nil when every condition holds.
func (c Codec) Conflict(steps []Step, current map[string]Pair) *datastore.ConflictError {
	var conflict *datastore.ConflictError
	for _, s := range steps {
		if class := s.violated(current); class != nil {
			conflict = &datastore.ConflictError{Key: s.Op.Key, Class: class}
			break
		}
	}
	if conflict == nil {
		return nil
	}
	conflict.Current = make(map[api.Key]datastore.Entry, len(current))
	for _, s := range steps {
		p, ok := current[s.Path]
		if !ok {
			continue
		}
		entry, invalid := c.Entry(s.Op.Key, p)
		if invalid != nil {
			conflict.Invalid = append(conflict.Invalid, *invalid)
			continue
		}
		conflict.Current[s.Op.Key] = entry
	}
	return conflict
}

// violated is the class of conflict between the step and the store, or nil.
func (s Step) violated(current map[string]Pair) error {
	p, present := current[s.Path]
	switch {
	case !s.Compares() || p.Revision == s.Op.Revision: // both 0: rightly absent
		return nil
	case s.Op.Revision == 0:
		return datastore.ErrAlreadyExists
	case !present:
		return datastore.ErrNotFound
	default:
		return datastore.ErrConflict
	}
}
