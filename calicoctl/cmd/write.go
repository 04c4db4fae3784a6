package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"tortie/calicoctl/manifestfile"
	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// verb is one way of writing resources.
type verb struct {
	name, past string
	do         func(ctx context.Context, store *resource.Store, obj api.Object) error
	updates    bool // whether it changes objects that exist
	// skip tells which failures the command line asked to pass over.
	skip    func(err error) bool
	skipped string // why, for the summary
}

// write runs a verb over manifests: everything is read, completed, validated and
// checked against the rules between objects before the first object is written.
func (a *app) write(ctx context.Context, v verb, in input) error {
	docs, err := a.prepare(in)
	if err != nil {
		return notExecuted(err, "; nothing was changed")
	}
	if len(docs) == 0 {
		a.println("No resources specified")
		return nil
	}
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	if err := checkRules(ctx, store, docs, v.updates); err != nil {
		return err
	}
	a.ensureInitialized(ctx, store)
	slices.SortStableFunc(docs, func(a, b manifestfile.Document) int {
		return referred(kindOf(a.Object)) - referred(kindOf(b.Object))
	})
	return a.writeAll(ctx, v, store, docs)
}

// referred is 0 for kinds that are to be there before those that name them: a peer
// without its filter has no session, be it for a moment.
func referred(kind api.Kind) int {
	if kind == api.KindBGPFilter {
		return 0
	}
	return 1
}

// prepare reads, completes and validates manifests, and refuses an object that
// is there twice: one of the two would silently be lost.
func (a *app) prepare(in input) ([]manifestfile.Document, error) {
	docs, err := a.read(in)
	errs := []error{err}
	first := map[api.Key]manifestfile.Source{}
	for _, doc := range docs {
		if err := resource.Complete(a.Registry, doc.Object); err != nil {
			errs = append(errs, &manifestfile.Error{Source: doc.At(manifestfile.FirstField(err)), Err: err})
			continue
		}
		key, err := a.Registry.KeyOf(doc.Object)
		if err != nil {
			errs = append(errs, &manifestfile.Error{Source: doc.Source, Err: err})
			continue
		}
		if before, ok := first[key]; ok {
			errs = append(errs, &manifestfile.Error{
				Source: doc.Source, Err: fmt.Errorf("%s: is already in the input at %s; remove one of the two", key, before),
			})
		}
		first[key] = doc.Source
	}
	return docs, errors.Join(errs...)
}

// maxFaults is how many faults of an input are shown: who has more corrects these
// first.
const maxFaults = 10

// notExecuted is how a failure before any write reads.
func notExecuted(err error, suffix string) error {
	var lines failures
	faults := flatten(err)
	if more := len(faults) - maxFaults; more > 1 { // a line for one says more than that there is one
		faults = append(slices.Clone(faults[:maxFaults]), fmt.Errorf("%d more faults are not shown; correct these first", more))
	}
	for _, e := range faults {
		lines = append(lines, fmt.Errorf("Failed to execute command: %w%s", e, suffix)) //nolint:staticcheck // as upstream's users know it
	}
	return lines
}

// checkRules checks what holds between objects.
func checkRules(ctx context.Context, store *resource.Store, docs []manifestfile.Document, updates bool) error {
	objects := make([]api.Object, len(docs))
	for i, doc := range docs {
		objects[i] = doc.Object
	}
	refusals, err := store.CheckPools(ctx, objects, updates)
	if err != nil {
		return err
	}
	peers, err := store.CheckPeers(ctx, objects)
	if err != nil {
		return err
	}
	nodes, err := store.CheckNodes(ctx, objects)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range slices.Concat(refusals, peers, nodes) {
		errs = append(errs, &manifestfile.Error{Source: docs[r.Index].At(r.Field), Err: r.Err})
	}
	if len(errs) == 0 {
		return nil
	}
	return notExecuted(errors.Join(errs...), "; nothing was changed")
}

// ensureInitialized makes the objects every cluster has. An operator who may
// write only some kinds is not stopped by it.
func (a *app) ensureInitialized(ctx context.Context, store *resource.Store) {
	if err := store.EnsureInitialized(ctx); err != nil {
		a.logger().Info("datastore could not be initialised", "err", err)
	}
}

// tally counts what became of the resources of one command.
type tally struct {
	verb     verb
	kind     api.Kind // the only kind, or empty
	total    int
	done     int
	skipped  int
	inOrder  bool // what was done are the first of the input
	failures failures
}

func newTally(v verb, kinds []api.Kind) *tally {
	t := &tally{verb: v, total: len(kinds), inOrder: true}
	for i, kind := range kinds {
		if i > 0 && kind != t.kind {
			t.kind = ""
			break
		}
		t.kind = kind
	}
	return t
}

// add counts one resource. where may be empty.
func (t *tally) add(kind api.Kind, where string, err error) {
	switch {
	case err == nil:
		t.done++
		t.inOrder = t.inOrder && len(t.failures) == 0
	case t.verb.skip != nil && t.verb.skip(err):
		t.skipped++
	default:
		if where != "" {
			err = fmt.Errorf("%s: %w", where, err)
		}
		t.failures = append(t.failures, &resourceError{verb: t.verb.name, kind: kind, err: err})
	}
}

// resourceError is one resource that a verb could not be carried out on.
type resourceError struct {
	verb string
	kind api.Kind
	err  error
}

func (f *resourceError) Error() string {
	return fmt.Sprintf("Failed to %s '%s' resource: %v", f.verb, f.kind, f.err)
}

func (f *resourceError) Unwrap() error { return f.err }

// hopeless tells whether what failed would fail for every further resource.
func hopeless(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, datastore.ErrUnavailable) || errors.Is(err, datastore.ErrUnauthorized)
}

func (a *app) writeAll(ctx context.Context, v verb, store *resource.Store, docs []manifestfile.Document) error {
	kinds := make([]api.Kind, len(docs))
	for i, doc := range docs {
		kinds[i] = kindOf(doc.Object)
	}
	t := newTally(v, kinds)
	var written []api.Object
	for i, doc := range docs {
		err := v.do(ctx, store, doc.Object)
		t.add(kinds[i], doc.Source.String(), err)
		if err == nil {
			written = append(written, doc.Object)
		}
		if hopeless(ctx, err) {
			break
		}
	}
	a.warnOf(ctx, store, written)
	return t.summarise(a.printf)
}

// warnOf says what was written and doesn't do what it seems to.
func (a *app) warnOf(ctx context.Context, store *resource.Store, written []api.Object) {
	for _, caveat := range slices.Concat(caveats(written), strangeNames(written), peersOfNobody(ctx, store, written), peersWithoutFilter(ctx, store, written),
		peeringAddresses(ctx, store, written)) {
		a.warn(caveat)
	}
}

// summarise prints what was done, in upstream's words, and returns what was not.
func (t *tally) summarise(printf func(format string, args ...any)) error {
	quoted := ""
	if t.kind != "" {
		quoted = fmt.Sprintf("'%s' ", t.kind)
	}
	if len(t.failures) == 0 {
		if t.done > 0 || t.skipped == 0 {
			printf("Successfully %s %d %sresource(s)\n", t.verb.past, t.done, quoted)
		}
		if t.skipped > 0 {
			printf("Skipped %d %sresource(s): %s\n", t.skipped, quoted, t.verb.skipped)
		}
		return nil
	}
	if t.done == 0 {
		return t.failures
	}
	first := ""
	if t.inOrder && t.skipped == 0 {
		first = "the first "
	}
	printf("Partial success: %s %s%d out of %d %sresources:\n", t.verb.past, first, t.done, t.total, quoted)
	var hit failures
	for _, err := range t.failures {
		hit = append(hit, fmt.Errorf("hit error: %w", err))
	}
	return hit
}

func kindOf(obj api.Object) api.Kind {
	return api.Kind(obj.GetObjectKind().GroupVersionKind().Kind)
}

const manifestHelp = `Resources are read from YAML and JSON: single ones, several documents in one file,
arrays and Lists. Everything is read and checked before anything is written.`

// writeCommand is the frame that create, apply and replace share.
func (a *app) writeCommand(use, short, long string, in *input, run func(cmd *cobra.Command) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long + "\n\n" + manifestHelp + "\n\n" + kindPointer,
		Args:  argsThat(cobra.NoArgs, "no arguments: resources are named with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := in.require(cmd); err != nil {
				return err
			}
			return run(cmd)
		},
	}
	in.addFlags(cmd)
	return cmd
}
