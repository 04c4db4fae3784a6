package cmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/ipam"
	"tortie/ipam/check"
	"tortie/ipam/repair"
)

type releaseFlags struct {
	kubeFlags
	ip      string
	reports []string
	force   bool
}

func (a *app) ipamReleaseCommand() *cobra.Command {
	var flags releaseFlags
	cmd := &cobra.Command{
		Use:   "release (--ip=ADDRESS | --from-report=FILE)",
		Short: "Release an address, or those that a report says are leaked",
		Long: `Release an address, or those that reports of calicoctl ipam check say nobody uses:
with several reports only what all of them say. What is released is given to others.

An address that a workload endpoint, a node or (with a kubeconfig) a pod has is refused;
--force releases a single one all the same. Of a report only what is still the same
assignment, and still used by nobody, is released. The report must be of this cluster;
one of another version of calicoctl, and a datastore that is not locked, need --force.`,
		Example: `  calicoctl ipam release --ip=10.65.1.7
  calicoctl datastore migrate lock
  calicoctl ipam check -o report.json
  calicoctl ipam release --from-report=report.json
  calicoctl datastore migrate unlock`,
		Args: argsThat(cobra.NoArgs, "no arguments: an address is released with --ip=ADDRESS"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var addr netip.Addr
			switch {
			case flags.ip == "" && len(flags.reports) == 0:
				return usage(cmd, "say what to release: --ip=ADDRESS or --from-report=FILE")
			case flags.ip != "":
				var err error
				if addr, err = netip.ParseAddr(flags.ip); err != nil {
					return usage(cmd, "--ip %q: want an IP address", flags.ip)
				}
			}
			return a.ipamRelease(cmd.Context(), flags, addr.Unmap())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.ip, "ip", "", "address to release")
	f.StringArrayVar(&flags.reports, "from-report", nil, "release what this report of ipam check says is leaked; may be repeated")
	f.BoolVar(&flags.force, "force", false, "release an address that is in use; take a report of another version, and a datastore that is not locked")
	flags.add(cmd)
	atMostOne(cmd, "ip", "from-report")
	_ = cmd.MarkFlagFilename("from-report", "json")
	return cmd
}

func (a *app) ipamRelease(ctx context.Context, flags releaseFlags, addr netip.Addr) error {
	ctx = ipam.WithReason(ctx, "calicoctl ipam release")
	kube, err := flags.open(a)
	if err != nil {
		return err
	}
	var reports []ipamReport
	for _, path := range flags.reports {
		r, err := readReport(path)
		if err != nil {
			return err
		}
		reports = append(reports, r)
	}
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	if len(reports) > 0 {
		return a.releaseFromReports(ctx, store, kube, flags, reports)
	}
	return a.releaseAddress(ctx, store, kube, addr, flags.force)
}

func (a *app) releaseAddress(ctx context.Context, store *resource.Store, kube Kube, addr netip.Addr, force bool) error {
	_, now, err := a.look(ctx, store.Client, kube)
	if err != nil {
		return err
	}
	held := now.Assigned(addr)
	if len(held) == 0 {
		for _, f := range now.Of(check.Unreadable) {
			a.warn(f.Where + ": " + f.What)
		}
		return fmt.Errorf("IP address %s is not assigned", addr)
	}
	for _, h := range held {
		if len(h.Users) > 0 && !force {
			return fmt.Errorf("IP address %s is in use by %s: nothing was released; delete that first, or give --force and it loses the address to another",
				addr, strings.Join(h.Users, ", "))
		}
	}
	for _, h := range held {
		if err := ipam.ReleaseOne(ctx, store.Client, h.Allocation); err != nil {
			if errors.Is(err, ipam.ErrNotAsSeen) {
				err = fmt.Errorf("IP address %s was released or assigned anew this moment: nothing was changed; look with calicoctl ipam show --ip=%s", addr, addr)
			}
			return err
		}
	}
	a.printf("Successfully released IP address %s\n", addr)
	return nil
}

// admit refuses reports that must not be acted on.
func (a *app) admit(info *v3.ClusterInformation, flags releaseFlags, reports []ipamReport) error {
	current := false
	for i, r := range reports {
		if r.ClusterGUID != info.Spec.ClusterGUID {
			return fmt.Errorf("cluster does not match the provided report (%s): mismatched cluster GUID. Refusing to release", flags.reports[i])
		}
		if r.Version != a.Version {
			if !flags.force {
				return fmt.Errorf("the provided report (%s) was produced using a different version (%s) of calicoctl. Refusing to release; make a new one, or give --force",
					flags.reports[i], r.Version)
			}
			a.warn("report " + flags.reports[i] + " was produced using a different version of calicoctl; ignored because of --force")
		}
		current = current || r.ClusterRevision == info.ResourceVersion
	}
	switch {
	case !current:
		return errors.New("the provided reports are all stale - at least one should be up-to-date. Please generate a new report while the data store is locked and try again")
	case info.Spec.DatastoreReady != nil && !*info.Spec.DatastoreReady:
	case !flags.force:
		return errors.New("data store is not locked. Either lock the data store (calicoctl datastore migrate lock), or re-run with --force")
	default:
		a.warn("the data store is not locked; ignored because of --force")
	}
	return nil
}

func (a *app) releaseFromReports(ctx context.Context, store *resource.Store, kube Kube, flags releaseFlags, reports []ipamReport) error {
	info, err := clusterInformation(ctx, store)
	if err != nil {
		return err
	}
	if err := a.admit(info, flags, reports); err != nil {
		return err
	}
	addresses, handles := merge(reports)
	left := 0
	if len(addresses) == 0 {
		a.println("Report didn't contain any leaked IPs to clean up.")
	} else if left, err = a.releaseReported(ctx, store, kube, addresses); err != nil {
		return err
	}
	if len(handles) == 0 {
		a.println("Report didn't contain any handles to clean up.")
	} else if err := a.deleteHandles(ctx, store, handles); err != nil {
		return err
	}
	a.println("You may now unlock the data store.")
	if left > 0 {
		return fmt.Errorf("ipam release: %d addresses of the report were not released: they have changed since, or are in use", left)
	}
	return nil
}

// merge is what all reports say: the assignments that nobody uses, and the handles
// without addresses.
func merge(reports []ipamReport) (addresses map[string]*reportAllocation, handles map[string]string) {
	for i, r := range reports {
		unused, orphans := map[string]*reportAllocation{}, map[string]string{}
		for ip, list := range r.Allocations {
			for _, x := range list {
				old, said := addresses[ip]
				if !x.InUse && (i == 0 || said && sameAssignment(old, x)) {
					unused[ip] = x
				}
			}
		}
		for _, h := range r.LeakedHandles {
			if old, said := handles[h.ID]; i == 0 || said && old == h.Revision {
				orphans[h.ID] = h.Revision
			}
		}
		addresses, handles = unused, orphans
	}
	return addresses, handles
}

func sameAssignment(a, b *reportAllocation) bool {
	return a.Handle == b.Handle && (a.SequenceNumber == nil) == (b.SequenceNumber == nil) && (a.SequenceNumber == nil || *a.SequenceNumber == *b.SequenceNumber)
}

// releaseReported releases those of a report's addresses that are still the same
// assignment and that nobody uses, and counts those left because they aren't.
func (a *app) releaseReported(ctx context.Context, store *resource.Store, kube Kube, addresses map[string]*reportAllocation) (left int, err error) {
	a.printf("Releasing %d old IPs...\n", len(addresses))
	_, now, err := a.look(ctx, store.Client, kube)
	if err != nil {
		return 0, err
	}
	released, clean := 0, 0
	for _, ip := range slices.Sorted(maps.Keys(addresses)) {
		x := addresses[ip]
		addr, _ := netip.ParseAddr(ip) // readReport has looked
		held := now.Assigned(addr.Unmap())
		if len(held) == 0 {
			clean++
			continue
		}
		why, err := releaseSame(ctx, store, held, x)
		if err != nil {
			return left, err
		}
		if why != "" {
			left++
			a.printf("  %s: not released: %s\n", ip, oneLine(plain(why)))
			continue
		}
		released++
	}
	a.printf("Released %d IPs successfully\n", released)
	if clean > 0 {
		a.printf("%d addresses marked as leaked in the report had already been cleaned up.\n", clean)
	}
	return left, nil
}

// releaseSame releases the assignment that a report has seen, if it is among those
// there are now and nobody uses it; why says why not.
func releaseSame(ctx context.Context, store *resource.Store, held []check.Address, x *reportAllocation) (why string, err error) {
	for _, h := range held {
		if string(h.Handle) != x.Handle || x.SequenceNumber == nil || *x.SequenceNumber != h.Sequence {
			continue
		}
		if len(h.Users) > 0 {
			return "it is in use by " + strings.Join(h.Users, ", "), nil
		}
		switch err := ipam.ReleaseOne(ctx, store.Client, h.Allocation); {
		case hopeless(ctx, err):
			return "", err
		case err != nil:
			return err.Error(), nil //nolint:nilerr // it is told, and the others are gone on with
		}
		return "", nil
	}
	return "it was assigned anew since the report", nil
}

// deleteHandles deletes handles that are still what the report saw.
func (a *app) deleteHandles(ctx context.Context, store *resource.Store, handles map[string]string) error {
	a.printf("Deleting %d handles...\n", len(handles))
	a.println("Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.")
	in, now, err := a.look(ctx, store.Client, nil)
	if err != nil {
		return err
	}
	orphans := map[string]check.Finding{}
	for _, f := range now.Of(check.OrphanHandle) {
		orphans[string(f.Handle)] = f
	}
	revisions := handleRevisions(in)
	m := repair.Mender{Client: store.Client}
	deleted, skipped, failed := 0, 0, 0
	var marks strings.Builder
	for _, id := range slices.Sorted(maps.Keys(handles)) {
		f, orphan := orphans[id]
		err := repair.ErrChanged
		if orphan && revisions[id] == handles[id] {
			err = m.Mend(ctx, f)
		}
		switch {
		case err == nil:
			deleted++
			marks.WriteByte('.')
		case errors.Is(err, repair.ErrChanged):
			skipped++
			marks.WriteByte('x')
		case hopeless(ctx, err):
			return err
		default:
			failed++
			fmt.Fprintf(&marks, "\nDeleting handle %s failed: %s.\n", oneLine(id), oneLine(plain(err.Error())))
		}
	}
	a.println(marks.String())
	a.printf("Released %d handles; %d skipped; %d errors.\n", deleted, skipped, failed)
	return nil
}
