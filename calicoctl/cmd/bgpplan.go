package cmd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tortie/bgpd/plan"
	"tortie/calicoctl/manifestfile"
	"tortie/calicoctl/output"
	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

func (a *app) bgpPlanCommand() *cobra.Command {
	var in input
	var format string
	var remove bool
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what a change of resources would do to BGP on all nodes; nothing is changed",
		Long: `Show what applying the resources of a file would do to BGP on all nodes: sessions added,
removed, reset, or changed while they go on, prefixes gained and lost, kernel routes
changed, problems made and solved. Nothing is written. It is computed by bgpd's own code
on a copy of the present datastore, wherever calicoctl runs. What the datastore doesn't
tell, such as what routers outside announce, is named as unknown.

With --delete the resources are deleted instead of applied.

` + manifestHelp + "\n\n" + kindPointer,
		Args: argsThat(cobra.NoArgs, "no arguments: resources are named with -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBGPFormat(cmd, format, peersFormats()); err != nil {
				return err
			}
			if err := in.require(cmd); err != nil {
				return err
			}
			return a.bgpPlan(cmd.Context(), in, remove, format)
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVar(&remove, "delete", false, "the resources are deleted, not applied")
	addBGPFormat(cmd, &format, peersFormats())
	return cmd
}

func (a *app) bgpPlan(ctx context.Context, in input, remove bool, format string) error {
	docs, err := a.prepare(in)
	if err != nil {
		return notExecuted(err, "")
	}
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	if !remove {
		if err := checkRules(ctx, store, docs, true); err != nil {
			return err
		}
	}
	present, err := a.present(ctx, store)
	if err != nil {
		return err
	}
	future, err := a.changed(present, docs, remove)
	if err != nil {
		return err
	}
	return a.printPlan(format, plan.Compare(plan.Read(objectsOf(present)), plan.Read(objectsOf(future))))
}

// present is what BGP depends on in the datastore. A record that can't be read is none,
// as for bgpd.
func (a *app) present(ctx context.Context, store *resource.Store) (map[api.Key]api.Object, error) {
	out := map[api.Key]api.Object{}
	for _, kind := range plan.Kinds() {
		snap, err := store.Client.List(ctx, datastore.Range{Kind: kind})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind, err)
		}
		for _, e := range snap.Entries {
			out[e.Key] = e.Object
		}
		for _, bad := range snap.Invalid {
			a.warn(fmt.Sprintf("%s can't be read and is left out: %v", bad.Path, bad.Err))
		}
	}
	return out, nil
}

// changed is a copy with the resources of manifests in it, or without them.
func (a *app) changed(present map[api.Key]api.Object, docs []manifestfile.Document, remove bool) (map[api.Key]api.Object, error) {
	future := maps.Clone(present)
	for _, doc := range docs {
		key, err := a.Registry.KeyOf(doc.Object)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(plan.Kinds(), key.Kind) {
			a.warn(fmt.Sprintf("%s: %s has no part in BGP", doc.Source, key))
			continue
		}
		_, exists := present[key]
		switch {
		case remove && !exists:
			a.warn(fmt.Sprintf("%s: %s does not exist", doc.Source, key))
		case remove:
			delete(future, key)
		default:
			future[key] = doc.Object
		}
	}
	return future, nil
}

func objectsOf(m map[api.Key]api.Object) []api.Object {
	out := make([]api.Object, 0, len(m))
	for _, o := range m {
		out = append(out, o)
	}
	return out
}

// planRows is how many lines of one kind are shown: the change of a big mesh has
// hundreds of thousands.
const planRows = 40

func (a *app) printPlan(format string, r plan.Result) error {
	switch format {
	case "json":
		return output.JSON(a.Stdout, r)
	case "yaml":
		return output.YAML(a.Stdout, r)
	}
	if r.Empty() {
		a.println("Nothing changes in BGP.")
	}
	sessions := func(list []plan.Session) [][]string {
		rows := [][]string{{"NODE", "LOCAL", "PEER", "ADDRESS", "WHY"}}
		for _, s := range list {
			rows = append(rows, []string{s.Node, dash(s.Local), s.Peer, s.Address, s.Why})
		}
		return rows
	}
	prefixes := func(list []plan.Prefix) [][]string {
		rows := [][]string{{"BY", "PREFIX", "OF"}}
		for _, p := range list {
			rows = append(rows, []string{p.Who, p.Prefix, p.From})
		}
		return rows
	}
	problems := func(list []plan.Problem) [][]string {
		rows := [][]string{{"NODES", "PROBLEM"}}
		for _, p := range list {
			rows = append(rows, []string{some(p.Nodes), p.Text})
		}
		return rows
	}
	routes := [][]string{{"NODE", "PREFIX", "NOW", "THEN"}}
	for _, x := range r.Routes {
		routes = append(routes, []string{x.Node, x.Prefix, dash(x.Before), dash(x.After)})
	}
	between := ""
	for _, part := range []struct {
		name string
		rows [][]string
	}{
		{"Sessions added", sessions(r.Added)},
		{"Sessions removed", sessions(r.Removed)},
		{"Sessions reset", sessions(r.Reset)},
		{"Sessions changed, which go on", sessions(r.Changed)},
		{"Prefixes gained", prefixes(r.Gained)},
		{"Prefixes lost", prefixes(r.Lost)},
		{"Kernel routes changed", routes},
		{"New problems", problems(r.Problems)},
		{"Problems solved", problems(r.Solved)},
	} {
		if len(part.rows) == 1 {
			continue
		}
		a.printf("%s", between)
		between = "\n"
		if err := a.printPlanPart(part.name, part.rows); err != nil {
			return err
		}
	}
	if !r.Empty() && len(r.Unknown) > 0 {
		a.println()
		for _, line := range r.Unknown {
			a.printf("Not known: %s.\n", oneLine(strings.TrimSuffix(line, ".")))
		}
	}
	return nil
}

// some names a few and counts the rest.
func some(nodes []string) string {
	const named = 4
	if len(nodes) <= named+1 {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(nodes[:named], ", "), len(nodes)-named)
}

func (a *app) printPlanPart(name string, rows [][]string) error {
	count := len(rows) - 1
	a.printf("%s: %d\n", name, count)
	if count > planRows {
		rows = rows[:planRows+1]
	}
	if err := a.printAs("table", nil, rows); err != nil {
		return err
	}
	if count > planRows {
		a.printf("… and %d more; -o json has them all\n", count-planRows)
	}
	return nil
}
