package cmd

import (
	"cmp"
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
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/ipam/check"
	"tortie/ipam/repair"
)

// Kube is Kubernetes as checks of addresses see it.
type Kube interface {
	repair.Kubernetes
	// Read reads the pods, nodes and services.
	Read(ctx context.Context) (*check.Kubernetes, error)
}

// kubeFlags say whether Kubernetes is asked.
type kubeFlags struct{ kubeconfig string }

func (k *kubeFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster whose pods, nodes and services are looked at (default $KUBECONFIG; without either they are not)")
	_ = cmd.MarkFlagFilename("kubeconfig")
}

// open connects to Kubernetes; nil when there is none to be asked.
func (k *kubeFlags) open(a *app) (Kube, error) {
	path := cmp.Or(k.kubeconfig, a.Getenv("KUBECONFIG"))
	if path == "" {
		return nil, nil
	}
	return a.OpenKube(path)
}

// look reads everything and checks it.
func (a *app) look(ctx context.Context, client datastore.Client, kube Kube) (check.Input, check.Result, error) {
	in, err := check.Read(ctx, client)
	if err != nil {
		return in, check.Result{}, err
	}
	if kube != nil {
		if in.Kubernetes, err = kube.Read(ctx); err != nil {
			return in, check.Result{}, fmt.Errorf("ask Kubernetes: %w", err)
		}
	}
	return in, check.Check(in), nil
}

type checkFlags struct {
	kubeFlags
	all, problems, fail bool
	output              string
}

func (a *app) ipamCheckCommand() *cobra.Command {
	var flags checkFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the addresses for leaks, doubles and broken records",
		Long: `Check the addresses: compare blocks, handles, affinities and IP pools with one
another, and with the workload endpoints and nodes that use the addresses; with a
kubeconfig also with the pods, nodes and services of Kubernetes. Nothing is written.

What is found is printed with what is wrong, where, why, and what to do. Much of it
is mended by calicoctl ipam fsck. A report (-o) is what calicoctl ipam release
--from-report takes.

Addresses that are just being given out or released may be taken for leaks: check
twice, or lock the datastore first (calicoctl datastore migrate lock).

Exit status: 0 when the check was made, whatever it found; with --exit-code 1 when
anything was found.`,
		Example: `  calicoctl ipam check --kubeconfig=/root/.kube/config --show-problem-ips
  calicoctl ipam check -o report.json`,
		Args: argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.ipamCheck(cmd.Context(), flags) },
	}
	f := cmd.Flags()
	f.BoolVar(&flags.all, "show-all-ips", false, "print all addresses that are checked")
	f.BoolVar(&flags.problems, "show-problem-ips", false, "print all addresses that are leaked or not given out properly, and everything that is found")
	f.StringVarP(&flags.output, "output", "o", "", "write a report to this file, in JSON")
	f.BoolVar(&flags.fail, "exit-code", false, "exit with 1 when anything is found")
	flags.add(cmd)
	_ = cmd.MarkFlagFilename("output", "json")
	return cmd
}

func (a *app) ipamCheck(ctx context.Context, flags checkFlags) error {
	flags.problems = flags.problems || flags.all
	kube, err := flags.open(a)
	if err != nil {
		return err
	}
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	info, err := a.knownCluster(ctx, store)
	if err != nil {
		return err
	}
	in, result, err := a.look(ctx, store.Client, kube)
	if err != nil {
		return err
	}
	p := checkPrinter{app: a, flags: flags, in: in, result: result}
	p.print()
	if flags.output != "" {
		if err := writeReport(flags.output, newIPAMReport(a.Version, info, in, result)); err != nil {
			return err
		}
	}
	if flags.fail && len(result.Findings) > 0 {
		return fmt.Errorf("ipam check: %d problems; calicoctl ipam fsck shows which of them it can mend", p.problems)
	}
	return nil
}

// knownCluster is clusterInformation for what can do without: a record that can't be read
// is told, and counts as none.
func (a *app) knownCluster(ctx context.Context, store *resource.Store) (*v3.ClusterInformation, error) {
	info, err := clusterInformation(ctx, store)
	if errors.Is(err, datastore.ErrInvalid) {
		a.warn(err.Error())
		return v3.NewClusterInformation(), nil
	}
	return info, err
}

// clusterInformation is the cluster's record of itself, an empty one when there is none.
func clusterInformation(ctx context.Context, store *resource.Store) (*v3.ClusterInformation, error) {
	obj, err := store.Get(ctx, api.Key{Kind: api.KindClusterInformation, Name: datastore.ClusterInformationName})
	if errors.Is(err, datastore.ErrNotFound) {
		return v3.NewClusterInformation(), nil
	}
	if err != nil {
		return nil, err
	}
	return obj.(*v3.ClusterInformation), nil
}

// checkPrinter prints a check in upstream's words, then what it found in ours.
type checkPrinter struct {
	*app
	flags    checkFlags
	in       check.Input
	result   check.Result
	problems int
}

func (p *checkPrinter) print() {
	p.println("Checking IPAM for inconsistencies...")
	p.println()
	p.blocks()
	p.pools()
	p.users()
	p.nodes()
	p.allocated()
	p.inUse()
	p.handles()
	p.problems += p.others()
	p.printf("Check complete; found %d problems.\n", p.problems)
	if p.in.Kubernetes == nil {
		p.println("Kubernetes was not asked: give --kubeconfig to look at its pods, nodes and services as well.")
	}
	p.findings()
}

func (p *checkPrinter) blocks() {
	p.println("Loading all IPAM blocks...")
	p.printf("Found %d IPAM blocks.\n", len(p.in.Blocks))
	byBlock := map[netip.Prefix][]check.Address{}
	for _, a := range p.result.Addresses {
		byBlock[a.Block] = append(byBlock[a.Block], a)
	}
	for _, entry := range p.in.Blocks {
		affinity := "<none>"
		if block := entry.Object.(*api.IPAMBlock); block.Spec.Affinity != nil {
			affinity = orElse(*block.Spec.Affinity, affinity)
		}
		p.printf(" IPAM block %s affinity=%s:\n", entry.Key.Name, oneLine(affinity))
		if prefix, err := netip.ParsePrefix(entry.Key.Name); err == nil && p.flags.all {
			for _, a := range byBlock[prefix] {
				p.printf("  %s allocated; attrs %s\n", a.Addr, attrText(a))
			}
		}
	}
	p.printf("IPAM blocks record %d allocations.\n\n", len(p.result.Addresses))
}

// attrText is who has an address, in upstream's form.
func attrText(a check.Address) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(a.Attrs)) {
		pairs = append(pairs, key+"="+a.Attrs[key])
	}
	return oneLine(fmt.Sprintf("Main:%s Extra:%s", orElse(string(a.Handle), "<none>"), strings.Join(pairs, ",")))
}

func (p *checkPrinter) pools() {
	p.println("Loading all IPAM pools...")
	active := 0
	for _, entry := range p.in.Pools {
		if pool, ok := entry.Object.(*v3.IPPool); ok && !pool.Spec.Disabled {
			active++
			p.printf("  %s\n", pool.Spec.CIDR)
		}
	}
	p.printf("Found %d active IP pools.\n\n", active)
}

func (p *checkPrinter) users() {
	tunnels, workloads := 0, 0
	used := map[netip.Addr]bool{}
	for _, u := range p.result.Users {
		used[u.Addr] = true
		if strings.HasPrefix(u.Name, "Node(") {
			tunnels++
		} else {
			workloads++
		}
	}
	show := func(prefix string) {
		for _, u := range p.result.Users {
			if p.flags.all && strings.HasPrefix(u.Name, prefix) {
				p.printf("  %s belongs to %s\n", u.Addr, u.Name)
			}
		}
	}
	p.println("Loading all nodes.")
	show("Node(")
	p.printf("Found %d node tunnel IPs.\n\n", tunnels)
	if p.in.Kubernetes != nil {
		p.println("Loading all service load balancer IPs.")
		p.printf("Found %d service load balancer.\n\n", len(p.in.Kubernetes.LoadBalancers))
	}
	p.println("Loading all workload endpoints.")
	show("Workload(")
	p.printf("Found %d workload IPs.\n", workloads)
	p.printf("Workloads and nodes are using %d IPs.\n\n", len(used))
	p.println("Loading all handles")
}

func (p *checkPrinter) nodes() {
	const most = 20
	p.printf("Looking for top (up to %d) nodes by allocations...\n", most)
	count := map[string]int{}
	for _, a := range p.result.Addresses {
		count[a.Node]++
	}
	names := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return cmp.Or(count[b]-count[a], cmp.Compare(a, b)) })
	for _, name := range names[:min(most, len(names))] {
		p.printf("  %s has %d allocations\n", oneLine(name), count[name])
	}
	if len(names) > 0 {
		p.printf("Node with most allocations has %d; median is %d\n", count[names[0]], count[names[len(names)/2]])
	}
	p.println()
}

func (p *checkPrinter) allocated() {
	p.println("Scanning for IPs that are allocated but not actually in use...")
	leaked := map[netip.Addr]bool{}
	for _, a := range p.result.Addresses {
		if len(a.Users) > 0 {
			continue
		}
		leaked[a.Addr] = true
		if p.flags.problems {
			p.printf("  %s leaked; attrs %s\n", a.Addr, attrText(a))
		}
	}
	p.problems += len(leaked)
	p.printf("Found %d IPs that are allocated in IPAM but not actually in use.\n", len(leaked))
}

func (p *checkPrinter) inUse() {
	p.println("Scanning for IPs that are in use by a workload or node but not allocated in IPAM...")
	if p.flags.problems {
		for _, f := range p.result.Of(check.DoubleAddress) {
			p.printf("  %s has multiple owners.\n", f.Addr)
		}
	}
	outside, missing := p.result.Of(check.OutsidePools), p.result.Of(check.NotAllocated)
	p.problems += len(outside) + len(missing)
	for _, f := range outside {
		if p.flags.problems {
			p.printf("  %s in use by %s is not in any active IP pool.\n", f.Addr, f.Stamp)
		}
	}
	for _, f := range missing {
		if p.flags.problems {
			p.printf("  %s in use by %s and in active IPAM pool but has no IPAM allocation.\n", f.Addr, f.Stamp)
		}
	}
	p.printf("Found %d in-use IPs that are not in active IP pools.\n", len(outside))
	p.printf("Found %d in-use IPs that are in active IP pools but have no corresponding IPAM allocation.\n\n", len(missing))
}

func (p *checkPrinter) handles() {
	p.println("Scanning for IPAM handles with no matching IPs...")
	orphans, missing := p.result.Of(check.OrphanHandle), p.result.Of(check.MissingHandle)
	for _, f := range orphans {
		if p.flags.all {
			p.printf("  %s doesn't have any active IPs.\n", oneLine(string(f.Handle)))
		}
	}
	p.problems += len(orphans)
	p.printf("Found %d handles with no matching IPs (and %d handles with matches).\n", len(orphans), p.result.Matched)
	p.println("Scanning for IPs with missing handle...")
	for _, f := range missing {
		if p.flags.problems {
			p.printf("  %s is in use in a block but doesn't exist.\n", oneLine(string(f.Handle)))
		}
	}
	p.printf("Found %d handles mentioned in blocks with no matching handle resource.\n", len(missing))
}

// others counts what upstream doesn't look for.
func (p *checkPrinter) others() int {
	counted := p.result.Of(check.Leak, check.OutsidePools, check.NotAllocated, check.OrphanHandle)
	others := len(p.result.Findings) - len(counted)
	p.printf("Found %d other problems: of blocks, affinities, handles, nodes, and keys that can't be read.\n", others)
	return others
}

// enough is how many findings of a kind are printed unless all are asked for.
const enough = 10

func (p *checkPrinter) findings() {
	nth := map[check.Kind]int{}
	for _, f := range p.result.Findings {
		nth[f.Kind]++
		switch {
		case nth[f.Kind] <= enough || p.flags.problems:
			p.finding(f)
		case nth[f.Kind] == enough+1:
			p.printf("\n%s: %d more, shown with --show-problem-ips\n", f.Kind, len(p.result.Of(f.Kind))-enough)
		}
	}
}

// finding prints what is wrong, where, why, and what to do.
func (a *app) finding(f check.Finding) {
	a.printf("\n%s: %s\n", f.Kind, oneLine(f.Where))
	a.printf("  what: %s\n  why:  %s\n  do:   %s\n", oneLine(f.What), oneLine(f.Why), oneLine(f.Do))
}
