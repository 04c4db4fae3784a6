package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/spf13/cobra"

	"tortie/bgpd/plan"
	"tortie/calicoctl/output"
	"tortie/calicoctl/resource"
	"tortie/internal/advertise"
	"tortie/internal/api"
	"tortie/internal/autotopology"
	"tortie/internal/autotopology/carryout"
	"tortie/internal/datastore"
)

// autoFlags are the command's.
type autoFlags struct {
	settings           api.AutoTopology
	off, apply, dryRun bool
	wait               time.Duration
	format             string
}

const (
	flagAbove, flagOff = "above", "off"
	// autoPause is how long sessions have before they are asked for again.
	autoPause = time.Second
)

func (a *app) bgpAutoTopologyCommand() *cobra.Command {
	f := autoFlags{settings: api.DefaultAutoTopology()}
	tuning := []string{"reflectors", "zone-label", "cluster-id"}
	cmd := &cobra.Command{
		Use:   "auto-topology [--above N | --off] [--apply | --dry-run]",
		Short: "Let route reflectors take the place of the mesh above a number of nodes, and back",
		Long: `Show how the nodes peer, and what auto-topology would do next. With --above it is
switched on: a cluster of more nodes than that gets route reflectors, nodes chosen from
all zones in turn, and one that has shrunk by a tenth more gets its mesh back. A
reflector that is gone, cordoned or not ready is replaced. With --off the mesh is brought
back, and then auto-topology is off, as it is by default.

On Kubernetes kube-controllers carries this out in the background (its controller
autotopology). Elsewhere --apply does, once, and returns when all is done; interrupted,
it goes on from there when it is run again. Either makes the new sessions first, waits
until they are up and their routes known, and only then takes the old ones away.

--dry-run shows what would be done and what it would do to sessions and routes.

The settings are an annotation of the BGPConfiguration default. What auto-topology makes
is the BGPPeer auto-topology, and on the reflectors the label tortie/route-reflector and
spec.bgp.routeReflectorClusterID. It changes no reflector and no BGPPeer that somebody
else has made, and says so.`,
		Example: `  calicoctl bgp auto-topology --above=100 --dry-run
  calicoctl bgp auto-topology --above=100 --apply
  calicoctl bgp auto-topology --off --apply`,
		Args: argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			on := cmd.Flags().Changed(flagAbove)
			if err := checkBGPFormat(cmd, f.format, peersFormats()); err != nil {
				return err
			}
			if f.apply && f.dryRun {
				return usage(cmd, "bgp auto-topology: --apply and --dry-run can't be given together; choose one")
			}
			if tuned := slices.IndexFunc(tuning, cmd.Flags().Changed); tuned >= 0 && !on {
				return usage(cmd, "--%s: goes with --%s", tuning[tuned], flagAbove)
			}
			if err := f.settings.Problem(); on && err != nil {
				return usage(cmd, "--%v", err)
			}
			return a.autoTopology(cmd.Context(), f, on)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.settings.Above, flagAbove, 0, "switch on: there are reflectors above this number of nodes")
	flags.IntVar(&f.settings.Reflectors, "reflectors", f.settings.Reflectors, "how many reflectors there are")
	flags.StringVar(&f.settings.ZoneLabel, "zone-label", f.settings.ZoneLabel, "the label of nodes by whose values reflectors are spread")
	flags.StringVar(&f.settings.ClusterID, "cluster-id", f.settings.ClusterID, "the cluster ID of the reflectors")
	flags.BoolVar(&f.off, flagOff, false, "switch off: back to the mesh")
	flags.BoolVar(&f.apply, "apply", false, "carry it out now, and wait until all is done")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be done, and write nothing")
	flags.DurationVar(&f.wait, "wait", 10*time.Minute, "how long --apply waits without a step forward")
	atMostOne(cmd, flagAbove, flagOff)
	addBGPFormat(cmd, &f.format, peersFormats())
	return cmd
}

func (a *app) autoTopology(ctx context.Context, f autoFlags, on bool) error {
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	runner := carryout.Runner{Client: store.Client, Registry: a.Registry, Now: a.Now, Asker: a.asker(store), AskReflectors: true}
	if on || f.off {
		if err := a.setAutoTopology(ctx, store, runner, f, on); err != nil || f.dryRun {
			return err
		}
	}
	if f.apply {
		return a.carryOut(ctx, runner, f.wait)
	}
	if on || f.off {
		return nil
	}
	in, err := runner.Read(ctx)
	if err != nil {
		return err
	}
	return a.showAutoTopology(ctx, store, in, in, f)
}

// setAutoTopology writes the settings, or shows what they would do.
func (a *app) setAutoTopology(ctx context.Context, store *resource.Store, runner carryout.Runner, f autoFlags, on bool) error {
	in, err := runner.Read(ctx)
	if err != nil {
		return err
	}
	settings := f.settings
	if !on {
		settings = api.AutoTopology{Off: true}
	}
	future := in
	future.Config = withSettings(in.Config, settings)
	now := autotopology.Next(in).State
	if left, _, _ := autotopology.Foresee(in); !on && now.Settings == (api.AutoTopology{}) && len(left) == 0 {
		a.println("Auto-topology is off already: nothing is changed.")
		return nil
	}
	if on && now.Settings.ClusterID != "" && now.Settings.ClusterID != settings.ClusterID && len(now.Reflectors) > 0 {
		return fmt.Errorf("--cluster-id: there are reflectors with %s: go back to the mesh first (--off), then switch on again", now.Settings.ClusterID)
	}
	steps, _, refused := autotopology.Foresee(future)
	if len(refused) > 0 {
		return inTheWay(refused)
	}
	if f.dryRun {
		return a.showAutoTopology(ctx, store, in, future, f)
	}
	if err := writeSettings(ctx, store, settings); err != nil {
		return err
	}
	a.println(settingsText(autotopology.Next(future).State))
	switch {
	case len(steps) == 0:
		a.println("Nothing has to be done now.")
	case !f.apply:
		a.printf("%d steps are to be made: by kube-controllers where it runs (calicoctl bgp auto-topology shows how far it is), else by calicoctl bgp auto-topology --apply.\n", len(steps))
	}
	return nil
}

func withSettings(old *v3.BGPConfiguration, settings api.AutoTopology) *v3.BGPConfiguration {
	conf := v3.NewBGPConfiguration()
	conf.Name = advertise.ConfigName
	if old != nil {
		conf = old.DeepCopy()
	}
	if conf.Annotations == nil {
		conf.Annotations = map[string]string{}
	}
	conf.Annotations[api.AnnotationAutoTopology] = settings.String()
	return conf
}

func writeSettings(ctx context.Context, store *resource.Store, settings api.AutoTopology) error {
	key := api.Key{Kind: api.KindBGPConfiguration, Name: advertise.ConfigName}
	err := store.Modify(ctx, key, func(obj api.Object) error {
		obj.SetAnnotations(withSettings(obj.(*v3.BGPConfiguration), settings).Annotations)
		return nil
	})
	if errors.Is(err, datastore.ErrNotFound) {
		_, err = datastore.NewResources(store.Client, store.Registry, store.Now).Create(ctx, withSettings(nil, settings))
	}
	if err != nil {
		return fmt.Errorf("write the settings of auto-topology: %w", err)
	}
	return nil
}

// inTheWay is an error of one line for each thing.
func inTheWay(refused []string) error {
	var errs failures
	for _, text := range refused {
		errs = append(errs, fmt.Errorf("auto-topology: %s", text))
	}
	return errs
}

// carryOut makes step after step until all is done.
func (a *app) carryOut(ctx context.Context, runner carryout.Runner, patience time.Duration) error {
	const again = "what was done stays, and nothing is lost by it: run calicoctl bgp auto-topology --apply again, it goes on from there"
	progress := progressLine{app: a}
	defer progress.end()
	waited := time.NewTimer(patience)
	defer waited.Stop()
	for {
		out, err := runner.Once(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("auto-topology: %w; %s", err, again)
		case len(out.Refused) > 0:
			return inTheWay(out.Refused)
		case out.Step != nil:
			progress.end()
			a.println(out.Step.What)
			waited.Reset(patience)
			continue
		case out.Done():
			progress.end()
			a.println(stateText(out.State))
			return nil
		}
		progress.show("waiting: " + firstOf(out.Wait))
		select {
		case <-time.After(autoPause):
		case <-ctx.Done():
			return fmt.Errorf("auto-topology: interrupted; %s", again)
		case <-waited.C:
			return fmt.Errorf("auto-topology: nothing has moved for %s, still waiting: %s; %s", patience, firstOf(out.Wait), again)
		}
	}
}

func firstOf(texts []string) string {
	if more := len(texts) - 1; more > 0 {
		return fmt.Sprintf("%s (and %d more)", texts[0], more)
	}
	return strings.Join(texts, "")
}

// progressLine is a line of a terminal that is written again and again; elsewhere nothing.
type progressLine struct {
	*app
	shown bool
}

const clearLine = "\r\x1b[K"

func (p *progressLine) show(text string) {
	if p.Terminal {
		p.printf("%s%s", clearLine, oneLine(text))
		p.shown = true
	}
}

func (p *progressLine) end() {
	if p.shown {
		p.printf("%s", clearLine)
		p.shown = false
	}
}

// autoView is what -o json shows.
type autoView struct {
	Settings   string            `json:"settings,omitempty"`
	Nodes      int               `json:"nodes"`
	Mesh       bool              `json:"mesh"`
	Wanted     string            `json:"wanted"`
	Reflectors []reflectorView   `json:"reflectors"`
	Unfit      map[string]string `json:"unfit,omitempty"`
	Refused    []string          `json:"refused,omitempty"`
	Steps      []string          `json:"steps"`
	Plan       *plan.Result      `json:"plan,omitempty"`
}

type reflectorView struct {
	Node  string `json:"node"`
	Zone  string `json:"zone,omitempty"`
	State string `json:"state"`
}

// showAutoTopology shows what is, and what would be done from the future's settings on.
func (a *app) showAutoTopology(ctx context.Context, store *resource.Store, now, future autotopology.Input, f autoFlags) error {
	state := autotopology.Next(future).State
	steps, end, refused := autotopology.Foresee(future)
	view := autoView{
		Settings: state.Settings.String(), Nodes: state.Nodes, Mesh: state.Mesh, Wanted: wantedText(state), Unfit: state.Unfit, Refused: refused,
		Steps: []string{}, Reflectors: []reflectorView{},
	}
	if state.Settings == (api.AutoTopology{}) {
		view.Settings = ""
	}
	for _, s := range steps {
		view.Steps = append(view.Steps, s.What)
	}
	for _, r := range state.Reflectors {
		view.Reflectors = append(view.Reflectors, reflectorView{Node: r.Node, Zone: r.Zone, State: reflectorText(r)})
	}
	if f.dryRun {
		result, err := a.foreseen(ctx, store, now, end)
		if err != nil {
			return err
		}
		view.Plan = &result
	}
	switch f.format {
	case "json":
		return output.JSON(a.Stdout, view)
	case "yaml":
		return output.YAML(a.Stdout, view)
	}
	if state.Settings != autotopology.Next(now).State.Settings {
		a.printf("With these settings: ")
	}
	a.println(settingsText(state))
	a.println(stateText(autotopology.Next(now).State))
	return a.printAutoTopology(state, view)
}

func (a *app) printAutoTopology(state autotopology.State, view autoView) error {
	if len(view.Reflectors) > 0 {
		rows := [][]string{{"NODE", "ZONE", "STATE"}}
		for _, r := range view.Reflectors {
			rows = append(rows, []string{r.Node, dash(r.Zone), r.State})
		}
		if err := a.printAs("table", nil, rows); err != nil {
			return err
		}
	}
	for i, name := range sortedNames(state.Unfit) {
		if i == planRows {
			a.printf("… and %d more; -o json has them all\n", len(state.Unfit)-i)
			break
		}
		a.printf("%s is not chosen: %s\n", name, oneLine(state.Unfit[name]))
	}
	for _, text := range view.Refused {
		a.printf("In the way: %s\n", oneLine(text))
	}
	if len(view.Steps) > 0 {
		a.println("To be done, each step when the sessions of those before are up and their routes known:")
	}
	for i, what := range view.Steps {
		a.printf("%3d. %s\n", i+1, what)
	}
	if view.Plan == nil {
		return nil
	}
	a.println()
	a.println("In the end, against now:")
	return a.printPlan("table", *view.Plan)
}

func sortedNames(m map[string]string) []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// foreseen is bgp plan's answer for what the resources become.
func (a *app) foreseen(ctx context.Context, store *resource.Store, now, end autotopology.Input) (plan.Result, error) {
	present, err := a.present(ctx, store)
	if err != nil {
		return plan.Result{}, err
	}
	before := plan.Read(objectsOf(present))
	after := before
	after.Nodes, after.Peers = end.Nodes, end.Peers
	after.Configs = slices.DeleteFunc(slices.Clone(before.Configs), func(c *v3.BGPConfiguration) bool { return c.Name == advertise.ConfigName })
	if end.Config != nil {
		after.Configs = append(after.Configs, end.Config)
	}
	before.Nodes, before.Peers = now.Nodes, now.Peers
	return plan.Compare(before, after), nil
}

func settingsText(s autotopology.State) string {
	switch set := s.Settings; {
	case set == (api.AutoTopology{}):
		return "Auto-topology is off."
	case set.Off:
		return "Auto-topology is being switched off: back to the mesh."
	default:
		return fmt.Sprintf("Auto-topology is on: above %d nodes %d reflectors, spread by %s, cluster ID %s; the mesh again at %d nodes or fewer.",
			set.Above, set.Reflectors, set.ZoneLabel, set.ClusterID, s.Back)
	}
}

func stateText(s autotopology.State) string {
	mesh := "off"
	if s.Mesh {
		mesh = "on"
	}
	var acting []string
	for _, r := range s.Reflectors {
		if r.Acting {
			acting = append(acting, r.Node)
		}
	}
	if len(acting) == 0 {
		acting = []string{"none"}
	}
	return fmt.Sprintf("Now: %d nodes, node-to-node mesh %s, reflectors: %s.", s.Nodes, mesh, strings.Join(acting, ", "))
}

func wantedText(s autotopology.State) string {
	if s.Wanted {
		return "reflectors"
	}
	return "mesh"
}

func reflectorText(r autotopology.Reflector) string {
	switch {
	case r.Chosen && r.Acting && r.Labelled:
		return "reflector"
	case r.Chosen:
		return "becomes one"
	case r.Acting && !r.Labelled:
		return "set up by hand"
	}
	return "is one no more"
}
