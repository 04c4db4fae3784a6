package autotopology_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/autotopology"
	"tortie/internal/bgpsummary"
)

// world is a cluster in which everything that may come in any order does: each node acts by
// the resources as it has last seen them, sessions take their time to come up, and whoever
// carries auto-topology out stops anywhere.
//
// A session that one end takes away is gone for both at once. One whose end begins anew is
// kept: both go on with what they have heard, but a reflector no longer passes it on.
type world struct {
	in      autotopology.Input
	history []autotopology.Input
	nodes   map[string]*node
	links   map[[2]string]*link
	now     int64
	log     []string
}

type node struct {
	view autotopology.Input // the resources it acts by
	dead bool
}

type link struct {
	up, kept bool
	since    int64
	// heard is what each end has heard from the other: reached node → true.
	heard map[string]map[string]bool
}

func newWorld(names map[string]string, settings string) *world {
	w := &world{nodes: map[string]*node{}, links: map[[2]string]*link{}}
	w.in.Config = v3.NewBGPConfiguration()
	w.in.Config.Name = "default"
	w.in.Config.Annotations = map[string]string{api.AnnotationAutoTopology: settings}
	for _, name := range sortedKeys(names) {
		w.in.Nodes = append(w.in.Nodes, newNode(name, names[name]))
		w.nodes[name] = &node{}
	}
	w.change(w.in)
	w.catchUp()
	return w
}

func newNode(name, zone string) *api.Node {
	var last int
	_, _ = fmt.Sscanf(name, "n%d", &last)
	return &api.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"topology.kubernetes.io/zone": zone}},
		Spec:       api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: fmt.Sprintf("10.0.0.%d/24", last)}},
	}
}

func addressOf(name string) string {
	var last int
	_, _ = fmt.Sscanf(name, "n%d", &last)
	return fmt.Sprintf("10.0.0.%d", last)
}

func (w *world) change(in autotopology.Input) {
	in.Asked, in.Summaries = nil, nil
	w.in = in
	w.history = append(w.history, in)
}

func find(in autotopology.Input, name string) *api.Node {
	i := slices.IndexFunc(in.Nodes, func(n *api.Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return in.Nodes[i]
}

func acting(n *api.Node) bool   { return n.Spec.BGP.RouteReflectorClusterID != "" }
func labelled(n *api.Node) bool { return n.Labels[api.LabelRouteReflector] == "true" }

func meshOf(in autotopology.Input) bool {
	on := in.Config.Spec.NodeToNodeMeshEnabled
	return on == nil || *on
}

// wants is by what x, as it sees the cluster, has a session with y: "peer", "mesh" or "".
func wants(in autotopology.Input, x, y string) string {
	a, b := find(in, x), find(in, y)
	switch {
	case a == nil || b == nil:
		return ""
	case len(in.Peers) > 0 && (labelled(a) || labelled(b)):
		return "peer"
	case meshOf(in) && !acting(a) && !acting(b):
		return "mesh"
	}
	return ""
}

// sees makes x act by resources.
func (w *world) sees(x string, in autotopology.Input) {
	n := w.nodes[x]
	if n.dead {
		return
	}
	before := n.view
	n.view = in
	for y := range w.nodes {
		l := w.links[pair(x, y)]
		if y == x || l == nil {
			continue
		}
		a, b := find(before, x), find(in, x)
		c, d := find(before, y), find(in, y)
		switch {
		case wants(in, x, y) == "":
			delete(w.links, pair(x, y))
		case a == nil || b == nil || c == nil || d == nil:
		case acting(a) != acting(b) || acting(b) && acting(c) != acting(d):
			l.up, l.kept = false, l.up || l.kept
		}
	}
}

func (w *world) catchUp() {
	for _, x := range sortedKeys(w.nodes) {
		w.sees(x, w.in)
	}
	for _, x := range sortedKeys(w.nodes) {
		for _, y := range sortedKeys(w.nodes) {
			w.connect(x, y)
		}
	}
}

// connect brings a session up if both ends want it.
func (w *world) connect(x, y string) {
	a, b := w.nodes[x], w.nodes[y]
	if x == y || a.dead || b.dead || wants(a.view, x, y) == "" || wants(b.view, y, x) == "" {
		return
	}
	l := w.links[pair(x, y)]
	if l == nil {
		l = &link{heard: map[string]map[string]bool{x: {}, y: {}}}
		w.links[pair(x, y)] = l
	}
	if !l.up {
		l.up, l.kept, l.since = true, false, w.now
	}
}

// spread lets every session that is up tell what there is to tell.
func (w *world) spread() {
	for ends, l := range w.links {
		if !l.up {
			continue
		}
		for _, way := range [][2]string{ends, {ends[1], ends[0]}} {
			from, to := way[0], way[1]
			l.heard[to] = map[string]bool{from: true}
			for origin := range w.nodes {
				if w.passes(from, origin, to) {
					l.heard[to][origin] = true
				}
			}
		}
	}
}

// passes: the reflector tells to what it has from origin itself (RFC 4456 section 6).
func (w *world) passes(reflector, origin, to string) bool {
	view := w.nodes[reflector].view
	r, o, t := find(view, reflector), find(view, origin), find(view, to)
	l := w.links[pair(reflector, origin)]
	if r == nil || o == nil || t == nil || origin == to || origin == reflector || !acting(r) || l == nil || !l.up {
		return false
	}
	client := !acting(o) || !acting(t)
	self := find(w.nodes[to].view, to)
	return client && self != nil && !acting(self) // a reflector refuses what has its own cluster ID
}

// route is by how many sessions x knows y, and which.
func (w *world) known(x, y string) (live, kept []string) {
	for z := range w.nodes {
		l := w.links[pair(x, z)]
		if z == x || l == nil || !l.heard[x][y] {
			continue
		}
		if l.up {
			live = append(live, z)
		} else {
			kept = append(kept, z)
		}
	}
	return live, kept
}

// check: every node that lives reaches every other.
func (w *world) check() error {
	for x, a := range w.nodes {
		for y, b := range w.nodes {
			if x == y || a.dead || b.dead || find(w.in, x) == nil || find(w.in, y) == nil {
				continue
			}
			if live, kept := w.known(x, y); len(live)+len(kept) == 0 {
				return fmt.Errorf("%s has no route to %s after\n  %s", x, y, strings.Join(w.log, "\n  "))
			}
		}
	}
	return nil
}

func (w *world) summary(x string) bgpsummary.Summary {
	view := w.nodes[x].view
	self := find(view, x)
	out := bgpsummary.Summary{
		ClusterID: self.Spec.BGP.RouteReflectorClusterID, Peers: map[string]bgpsummary.Group{},
		Only: map[string]int{}, Reflected: map[string]int{},
	}
	for y := range w.nodes {
		if y == x {
			continue
		}
		name := api.AutoTopologyPeer
		switch wants(view, x, y) {
		case "mesh":
			out.Mesh = w.count(out.Mesh, x, y)
		case "peer":
			out.Peers[name] = w.count(out.Peers[name], x, y)
		}
		w.countRoutes(&out, x, y)
	}
	return out
}

func (w *world) count(g bgpsummary.Group, x, y string) bgpsummary.Group {
	g.Sessions++
	l := w.links[pair(x, y)]
	if l == nil || !l.up {
		if g.Down == nil {
			g.Down = map[string]string{}
		}
		g.Down[addressOf(y)] = "not up"
		return g
	}
	age := w.now - l.since
	if g.Sessions-len(g.Down) == 1 || age < g.Youngest {
		g.Youngest = age
	}
	return g
}

func (w *world) countRoutes(out *bgpsummary.Summary, x, y string) {
	live, kept := w.known(x, y)
	if len(live) == 0 {
		out.Kept += min(1, len(kept))
		return
	}
	mesh := 0
	for _, z := range live {
		if wants(w.nodes[x].view, x, z) == "mesh" {
			mesh++
		}
	}
	switch {
	case mesh == len(live):
		out.MeshOnly++
	case len(live) == 1:
		out.Only[addressOf(live[0])]++
	}
	if !slices.Contains(live, y) {
		out.Reflected[addressOf(y)]++
	}
}

// act carries out what is to be done now, if anything may be.
func (w *world) act() autotopology.Outcome {
	in := w.in
	in.Asked, in.Summaries = map[string]bool{}, map[string]bgpsummary.Summary{}
	for {
		out := autotopology.Next(in)
		for _, name := range out.Ask {
			in.Asked[name] = true
			if n := w.nodes[name]; n != nil && !n.dead && find(n.view, name) != nil {
				in.Summaries[name] = w.summary(name)
			}
		}
		if len(out.Ask) > 0 {
			continue
		}
		if out.Step != nil {
			w.log = append(w.log, out.Step.What)
			w.change(w.in.After(*out.Step))
		}
		return out
	}
}

// dies makes a node fall silent. What others have heard of it they keep for a while.
func (w *world) dies(x string) {
	w.log = append(w.log, x+" dies")
	w.nodes[x].dead = true
	for y := range w.nodes {
		if l := w.links[pair(x, y)]; l != nil {
			l.up, l.kept = false, true
		}
	}
}

// forgotten ends that while.
func (w *world) forgotten() {
	for ends, l := range w.links {
		if !l.up && (w.nodes[ends[0]].dead || w.nodes[ends[1]].dead) {
			delete(w.links, ends)
		}
	}
}

func pair(x, y string) [2]string { return [2]string{min(x, y), max(x, y)} }

// TestNoRouteIsLostWhateverComesInWhateverOrder goes to reflectors and back many times, in
// clusters of one to four zones, with nodes that see changes late, sessions that come up
// late, reflectors that are cordoned, one that dies, and an end anywhere.
func TestNoRouteIsLostWhateverComesInWhateverOrder(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { wander(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func wander(t *testing.T, r *rand.Rand) {
	names := map[string]string{}
	zones := 1 + r.IntN(4)
	for i := range 4 + r.IntN(5) {
		names[fmt.Sprintf("n%d", i+1)] = fmt.Sprintf("zone%d", r.IntN(zones))
	}
	wanted := 1 + r.IntN(3)
	w := newWorld(names, fmt.Sprintf("above=2 reflectors=%d", wanted))
	w.spread()
	deaths := 0
	if wanted == 1 {
		deaths++ // nobody can stand in for an only reflector
	}
	for range 60 + r.IntN(400) {
		w.happen(r, wanted, &deaths)
		w.spread()
		if err := w.check(); err != nil {
			t.Fatal(err)
		}
	}
	w.finish(t)
	reflectors := 0
	for _, n := range w.in.Nodes {
		if acting(n) != labelled(n) {
			t.Errorf("%s is half a reflector", n.Name)
		}
		if acting(n) {
			reflectors++
		}
	}
	on := w.in.Config.Annotations[api.AnnotationAutoTopology] != ""
	switch {
	case on && (meshOf(w.in) || reflectors != wanted):
		t.Errorf("mesh %v, %d reflectors of %d\n%s", meshOf(w.in), reflectors, wanted, strings.Join(w.log, "\n"))
	case !on && (!meshOf(w.in) || reflectors != 0 || len(w.in.Peers) != 0 || len(w.in.Config.Annotations) != 0):
		t.Errorf("something is left: %d reflectors, %d peers, %v", reflectors, len(w.in.Peers), w.in.Config.Annotations)
	}
}

// happen is one thing that happens.
func (w *world) happen(r *rand.Rand, reflectors int, deaths *int) {
	names := sortedKeys(w.nodes)
	some := names[r.IntN(len(names))]
	switch p := r.IntN(1000); {
	case p < 300:
		for later := range w.history { // what it has seen it doesn't unsee
			if i := len(w.history) - 1 - later; r.IntN(3) > 0 || later == 0 {
				if i >= w.seenUntil(some) {
					w.sees(some, w.history[i])
				}
				break
			}
		}
	case p < 700:
		w.connect(some, names[r.IntN(len(names))])
	case p < 850:
		w.now += int64(r.IntN(4))
	case p < 975:
		w.act()
	case p < 985:
		w.setting(reflectors)
	case p < 995:
		w.cordon(some, r.IntN(3) > 0)
	case *deaths == 0:
		*deaths++
		w.dies(some)
	}
}

func (w *world) seenUntil(x string) int {
	for i := len(w.history) - 1; i > 0; i-- {
		if v := w.nodes[x].view; slices.Equal(v.Nodes, w.history[i].Nodes) && v.Config == w.history[i].Config && slices.Equal(v.Peers, w.history[i].Peers) {
			return i
		}
	}
	return 0
}

// setting switches between on and off.
func (w *world) setting(reflectors int) {
	in := w.in
	in.Config = in.Config.DeepCopy()
	if in.Config.Annotations == nil {
		in.Config.Annotations = map[string]string{}
	}
	now := in.Config.Annotations[api.AnnotationAutoTopology]
	switch {
	case strings.HasPrefix(now, "above"):
		in.Config.Annotations[api.AnnotationAutoTopology] = "off"
	default:
		in.Config.Annotations[api.AnnotationAutoTopology] = fmt.Sprintf("above=2 reflectors=%d", reflectors)
	}
	w.log = append(w.log, "set "+in.Config.Annotations[api.AnnotationAutoTopology])
	w.change(in)
}

func (w *world) cordon(x string, out bool) {
	in := w.in
	in.Nodes = slices.Clone(in.Nodes)
	for i, n := range in.Nodes {
		if n.Name == x {
			n = n.DeepCopyObject().(*api.Node)
			delete(n.Labels, api.LabelGracefulShutdown)
			if out {
				n.Labels[api.LabelGracefulShutdown] = "true"
			}
			in.Nodes[i] = n
			w.log = append(w.log, fmt.Sprintf("%s cordoned %v", x, out))
		}
	}
	w.change(in)
}

// finish lets everything come that is on its way, until all is done.
func (w *world) finish(t *testing.T) {
	t.Helper()
	for range 100 {
		w.catchUp()
		w.spread()
		w.forgotten()
		w.now += 10
		out := w.act()
		if err := w.check(); err != nil {
			t.Fatal(err)
		}
		if out.Done() {
			return
		}
		if len(out.Refused) > 0 {
			t.Fatalf("refused: %v", out.Refused)
		}
	}
	t.Fatalf("it doesn't end: %+v\n%s", w.act(), strings.Join(w.log, "\n"))
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
