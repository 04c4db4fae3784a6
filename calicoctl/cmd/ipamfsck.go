package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/datastore"
	"tortie/internal/filefault"
	"tortie/ipam/check"
	"tortie/ipam/repair"
)

// mendFlags are those of the commands that mend.
type mendFlags struct {
	kubeFlags
	repair, dryRun bool
	wait           time.Duration
	undoFile, undo string
}

func (f *mendFlags) add(cmd *cobra.Command) {
	f.kubeFlags.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.dryRun, "dry-run", false, "print what would be changed, and change nothing")
	flags.DurationVar(&f.wait, "wait", 10*time.Second, "how long to wait between the two looks; what only one of them finds is left alone")
	flags.StringVar(&f.undoFile, "undo-file", "", "file to write what is needed to undo it (default ipam-undo-TIME.json)")
	_ = cmd.MarkFlagFilename("undo-file", "json")
}

func (f *mendFlags) check(cmd *cobra.Command) error {
	if f.wait < 0 {
		return usage(cmd, "--wait %v: want a time that isn't negative", f.wait)
	}
	return nil
}

func (a *app) ipamFsckCommand() *cobra.Command {
	var flags mendFlags
	cmd := &cobra.Command{
		Use:   "fsck [--repair | --undo FILE]",
		Short: "Mend what check finds, and undo it",
		Long: `Look for everything that calicoctl ipam check looks for and, with --repair, mend what
can be mended. Without --repair, or with --dry-run, the changes are printed and not made.

Everything is looked at twice; only what both looks found, unchanged, is mended. Each
change is printed before it is made, is one transaction that fails if anybody has
changed the same meanwhile, and is written into an undo file first. An address is
released only when its owner is known and known to be gone: its pod by what Kubernetes
says (give --kubeconfig), its node by what the datastore and Kubernetes say. Whatever
may be in use is left, with what to do.

--undo puts back what a run has changed, transaction by transaction, the last one first.
What somebody has changed since is refused and left as it is.

Exit status: 0 when nothing is wrong, or no longer; 1 when something is left.`,
		Example: `  calicoctl ipam fsck
  calicoctl ipam fsck --repair --kubeconfig=/root/.kube/config
  calicoctl ipam fsck --undo ipam-undo-20261122T120000Z.json`,
		Args: argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			if flags.undo != "" {
				return a.ipamUndo(cmd.Context(), flags)
			}
			return a.mend(cmd.Context(), flags, "fsck", func(check.Finding) bool { return true })
		},
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&flags.repair, "repair", false, "mend what can be mended")
	f.StringVar(&flags.undo, "undo", "", "undo what the run that wrote this file has changed")
	_ = cmd.MarkFlagFilename("undo", "json")
	atMostOne(cmd, "repair", "undo")
	atMostOne(cmd, "undo-file", "undo")
	return cmd
}

func (a *app) ipamGCCommand() *cobra.Command {
	var flags mendFlags
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Release the addresses of pods and nodes that are gone",
		Long: `Release the addresses of pods and nodes that are gone, as kube-controllers does by
itself after leakGracePeriod. With --dry-run the candidates are printed, each with why
it would be released or is kept.

An address is released only when its owner is known and known to be gone, seen so
twice and asked for once more right before, and when it is still the same assignment;
all addresses of a handle, or none. Each run can be undone: calicoctl ipam fsck --undo.

Exit status: 0 when nothing is left to be released; 1 otherwise.`,
		Example: `  calicoctl ipam gc --dry-run --kubeconfig=/root/.kube/config`,
		Args:    argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags.repair = true
			if err := flags.check(cmd); err != nil {
				return err
			}
			if flags.dryRun {
				return a.showCandidates(cmd.Context(), flags)
			}
			return a.mend(cmd.Context(), flags, "gc", func(f check.Finding) bool { return isCandidate(f) && f.Mendable })
		},
	}
	flags.add(cmd)
	return cmd
}

func isCandidate(f check.Finding) bool { return f.Kind == check.Leak || f.Kind == check.NodeGone }

// showCandidates says of each address that nobody seems to have whether it would be
// released, and why or why not.
func (a *app) showCandidates(ctx context.Context, flags mendFlags) error {
	s, err := a.openMending(ctx, flags)
	if err != nil {
		return err
	}
	defer s.close()
	_, result, err := a.look(ctx, s.store.Client, s.kube)
	if err != nil {
		return err
	}
	a.warnOfUnreadFindings(result.Findings)
	release, keep := 0, 0
	for _, f := range slices.DeleteFunc(result.Findings, func(f check.Finding) bool { return !isCandidate(f) }) {
		verdict, why := "would be released", f.Proof
		n := max(1, len(f.Seen))
		if f.Mendable {
			release += n
		} else {
			verdict, why, keep = "kept", f.Kept, keep+n
		}
		a.printf("%s: %s\n  %s: %s\n", oneLine(f.Where), oneLine(f.What), verdict, oneLine(why))
	}
	a.printf("%d addresses would be released, %d kept.\n", release, keep)
	return nil
}

// warnOfUnreadFindings names what couldn't be looked at.
func (a *app) warnOfUnreadFindings(findings []check.Finding) {
	for _, f := range findings {
		if f.Kind == check.Unreadable {
			a.warn(fmt.Sprintf("%s: %s; what it may be about is kept", f.Where, f.What))
		}
	}
}

// mending is what a command that mends works on.
type mending struct {
	store *resource.Store
	kube  Kube
	close func()
	guid  string
}

func (a *app) openMending(ctx context.Context, flags mendFlags) (*mending, error) {
	kube, err := flags.open(a)
	if err != nil {
		return nil, err
	}
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	info, err := a.knownCluster(ctx, store)
	if err != nil {
		closeStore()
		return nil, err
	}
	return &mending{store: store, kube: kube, close: closeStore, guid: info.Spec.ClusterGUID}, nil
}

// mend looks twice, mends what both looks found, and says what is left.
func (a *app) mend(ctx context.Context, flags mendFlags, name string, wanted func(check.Finding) bool) error {
	s, err := a.openMending(ctx, flags)
	if err != nil {
		return err
	}
	defer s.close()
	findings, err := a.lookTwice(ctx, s, flags, wanted)
	if err != nil {
		return err
	}
	changing := flags.repair && !flags.dryRun
	run := &mendRun{app: a, mending: s, flags: flags, changing: changing}
	defer run.closeUndo()
	mended, err := run.all(ctx, findings)
	if err != nil {
		run.sayUndo()
		return err
	}
	for _, f := range findings {
		if !f.Mendable {
			a.finding(f)
			a.printf("  left: %s\n", oneLine(f.Kept))
		}
	}
	left := len(findings) - mended
	switch {
	case len(findings) == 0:
		a.println(map[string]string{"fsck": "Nothing is wrong.", "gc": "Nothing is to be released."}[name])
		return nil
	case !changing:
		a.printf("\n%d problems, of which %d would be mended. Nothing was changed.\n", len(findings), mended)
		advice := "run it with --repair and without --dry-run to mend them"
		if mended == 0 {
			advice = "what is printed above says what to do about each"
		}
		return fmt.Errorf("ipam %s: %d problems; %s", name, len(findings), advice)
	}
	a.printf("\n%d of %d problems mended.\n", mended, len(findings))
	run.sayUndo()
	if left > 0 {
		return fmt.Errorf("ipam %s: %d problems are left; what is printed above says what to do about each", name, left)
	}
	return nil
}

// lookTwice is what two looks found alike.
func (a *app) lookTwice(ctx context.Context, s *mending, flags mendFlags, wanted func(check.Finding) bool) ([]check.Finding, error) {
	_, first, err := a.look(ctx, s.store.Client, s.kube)
	if err != nil {
		return nil, err
	}
	if !wanted(check.Finding{Kind: check.Unreadable}) {
		a.warnOfUnreadFindings(first.Findings)
	}
	found := slices.DeleteFunc(first.Findings, func(f check.Finding) bool { return !wanted(f) })
	if len(found) == 0 || !flags.repair || flags.dryRun {
		return found, nil
	}
	a.printf("Found %d problems. Looking again in %v...\n", len(found), flags.wait)
	if err := pause(ctx, flags.wait); err != nil {
		return nil, err
	}
	_, second, err := a.look(ctx, s.store.Client, s.kube)
	if err != nil {
		return nil, err
	}
	once := map[string]bool{}
	for _, f := range found {
		once[f.ID()] = true
	}
	again := slices.DeleteFunc(second.Findings, func(f check.Finding) bool { return !once[f.ID()] })
	if gone := len(found) - len(again); gone > 0 {
		a.printf("%d of them are gone or have changed: that was somebody at work.\n", gone)
	}
	return again, nil
}

// mendRun is one run that mends.
type mendRun struct {
	*app
	*mending
	flags    mendFlags
	changing bool
	// client keeps what is written to itself unless the run is changing.
	client datastore.Client

	subject string // what is being mended
	path    string // of the undo file; empty until there is something to undo
	file    *os.File
	rec     *repair.Recorder
}

// all mends findings one after the other and counts those mended. What somebody was
// faster at is told and left; only a store or a file that fails ends it.
func (r *mendRun) all(ctx context.Context, findings []check.Finding) (mended int, err error) {
	r.client = r.store.Client
	if !r.changing {
		r.client = repair.NewOverlay(r.client)
	}
	m := repair.Mender{Client: &repair.Journal{Client: r.client, Before: r.before, Failed: r.failed}}
	if r.kube != nil {
		m.Kubernetes = r.kube
	}
	for _, f := range findings {
		if !f.Mendable {
			continue
		}
		r.subject = fmt.Sprintf("%s: %s", f.Kind, f.Where)
		r.printf("\n%s\n", oneLine(r.subject))
		r.printf("  what: %s\n  why:  %s\n", oneLine(f.What), oneLine(f.Why))
		err := m.Mend(ctx, f)
		switch {
		case err == nil || errors.Is(err, repair.ErrChanged) && r.isGone(ctx, f):
			mended++
		case hopeless(ctx, err) || errors.Is(err, errUndoFile):
			return mended, err
		default:
			r.printf("  left: %s\n", oneLine(plain(err.Error())))
		}
	}
	return mended, nil
}

// isGone reports whether a finding that could not be mended is not there any more:
// what was mended before it took it along.
func (r *mendRun) isGone(ctx context.Context, f check.Finding) bool {
	_, now, err := r.look(ctx, r.client, r.kube)
	gone := err == nil && !slices.ContainsFunc(now.Findings, func(g check.Finding) bool { return g.Kind == f.Kind && g.Where == f.Where })
	if gone {
		r.println("  it is right by now")
	}
	return gone
}

var errUndoFile = errors.New("nothing was changed without an undo file")

// before prints a change and writes it down, before it is made.
func (r *mendRun) before(changes []repair.Change) error {
	for _, c := range changes {
		verb := "change"
		if !r.changing {
			verb = "would change"
		}
		r.printf("  %s: %s\n", verb, oneLine(c.String()))
	}
	if !r.changing {
		return nil
	}
	if err := r.openUndo(); err != nil {
		return fmt.Errorf("%w: %w", errUndoFile, err)
	}
	if err := r.rec.Record(r.subject, changes); err != nil {
		return fmt.Errorf("%w: %w", errUndoFile, err)
	}
	return nil
}

func (r *mendRun) failed() {
	if r.rec == nil {
		return
	}
	r.println("  not made: somebody was faster")
	if err := r.rec.Cancel(); err != nil {
		r.warn(err.Error())
	}
}

// openUndo makes the undo file, once; it must not exist.
func (r *mendRun) openUndo() error {
	if r.rec != nil {
		return nil
	}
	r.path = orElse(r.flags.undoFile, "ipam-undo-"+r.Now().UTC().Format("20060102T150405Z")+".json")
	file, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%w; name another with --undo-file", err)
	}
	r.file = file
	r.rec, err = repair.NewRecorder(file, r.Registry, r.guid, r.Now())
	if err == nil {
		r.rec.Sync = file.Sync
	}
	return err
}

// sayUndo says how what was changed is undone, however the run ends.
func (r *mendRun) sayUndo() {
	if r.rec != nil {
		r.printf("Undo with: calicoctl ipam fsck --undo %s\n", r.path)
	}
}

func (r *mendRun) closeUndo() {
	if r.file == nil {
		return
	}
	if err := r.file.Close(); err != nil {
		r.warn("close the undo file: " + err.Error())
	}
}

func (a *app) ipamUndo(ctx context.Context, flags mendFlags) error {
	file, err := os.Open(flags.undo)
	if err != nil {
		return fmt.Errorf("read the undo file: %w", filefault.Explain(err))
	}
	undo, err := repair.ReadUndo(file, a.Registry)
	_ = file.Close()
	if err != nil {
		return fmt.Errorf("read the undo file %s: %w", flags.undo, err)
	}
	s, err := a.openMending(ctx, flags)
	if err != nil {
		return err
	}
	defer s.close()
	if undo.ClusterGUID != s.guid {
		return fmt.Errorf("undo file %s is of the cluster with GUID %q, this one has %q: nothing was changed; check ETCD_ENDPOINTS or --config", flags.undo, undo.ClusterGUID, s.guid)
	}
	refused := 0
	err = undo.Apply(ctx, s.store.Client, a.Registry, flags.dryRun, func(d repair.Undone) {
		a.printf("\n%s\n", oneLine(d.What))
		switch {
		case d.Refused != nil:
			refused++
			a.printf("  left: %s\n", oneLine(plain(d.Refused.Error())))
		case d.Already:
			a.println("  it is as it was")
		}
		for _, c := range d.Changes {
			a.printf("  %s: %s\n", map[bool]string{true: "would change", false: "changed"}[flags.dryRun], oneLine(c.String()))
		}
	})
	if err != nil {
		return err
	}
	a.printf("\n%d of %d changes undone.\n", undo.Steps()-refused, undo.Steps())
	if refused > 0 {
		return fmt.Errorf("ipam fsck --undo: %d of %d changes are left, because what they changed is in use by others since; nothing of theirs was touched", refused, undo.Steps())
	}
	return nil
}
