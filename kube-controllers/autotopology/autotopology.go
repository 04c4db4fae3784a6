// Package autotopology keeps the nodes' BGP as auto-topology is set: route reflectors above
// a number of nodes, the mesh below. What is to be done is internal/autotopology's to say.
package autotopology

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tortie/internal/advertise"
	"tortie/internal/api"
	"tortie/internal/autotopology/carryout"
	"tortie/internal/datastore"
	"tortie/internal/nodeask"
	"tortie/kube-controllers/kube"
	"tortie/kube-controllers/queue"
	"tortie/kube-controllers/state"
)

const (
	// lookAgain is how long sessions have before nodes are asked again, and longer by a
	// little for each node: every bgpd hears of every question. refusedAgain is how long
	// whatever is in the way has.
	lookAgain, lookAgainNode, refusedAgain = 5 * time.Second, 20 * time.Millisecond, time.Minute
	// answerTime is how long nodes have for an answer.
	answerTime = 5 * time.Second
	// unreadyFor is for how long a node must not have been ready before another reflector is
	// chosen in its place: one that only starts anew is back by then.
	unreadyFor = 2 * time.Minute
)

// Config is what the controller works in.
type Config struct {
	Client   datastore.Client
	Registry *api.Registry
	Cache    *state.Cache
	Nodes    *kube.Resource[*corev1.Node]
	Now      func() time.Time
	Log      *slog.Logger
	Metrics  *queue.Metrics
}

// Controller carries auto-topology out. It has one key: the cluster.
type Controller struct {
	cfg    Config
	runner carryout.Runner
	queue  *queue.Queue[string]
	// said is what was last logged that stands in the way, or is waited for.
	said string
}

const cluster = "cluster"

// New makes a Controller.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg}
	c.runner = carryout.Runner{
		Client: cfg.Client, Registry: cfg.Registry, Now: cfg.Now, Unfit: c.unfit,
		Asker: nodeask.Asker{
			Client: cfg.Client, Registry: cfg.Registry, Now: cfg.Now, Timeout: answerTime, Prefix: "kube-controllers-",
			Warn: func(text string) { cfg.Log.Warn("auto-topology could not clean up", "cause", text) },
		},
	}
	c.queue = queue.New(queue.Config[string]{Name: "autotopology", Workers: 1, Reconcile: c.reconcile, Log: cfg.Log, Metrics: cfg.Metrics})
	changed := func(_, _ *datastore.Entry, _ api.Key) { c.queue.Add(cluster) }
	for _, kind := range []api.Kind{api.KindNode, api.KindBGPConfiguration, api.KindBGPPeer, api.KindBGPFilter} {
		cfg.Cache.Watch(kind, changed)
	}
	return c, cfg.Nodes.Watch(func(_, _ string) { c.queue.Add(cluster) })
}

// Run works until ctx ends. Both sides must have been read by then.
func (c *Controller) Run(ctx context.Context) { c.queue.Run(ctx) }

// Close ends it for good.
func (c *Controller) Close() { c.queue.Close() }

// Health is nil unless a worker is stuck.
func (c *Controller) Health() error { return c.queue.Health() }

// inUse reports whether there is anything to do at all, from the cache alone: most clusters
// have none of this.
func (c *Controller) inUse() bool {
	conf, ok := c.cfg.Cache.Get(api.Key{Kind: api.KindBGPConfiguration, Name: advertise.ConfigName})
	peer, made := c.cfg.Cache.Get(api.Key{Kind: api.KindBGPPeer, Name: api.AutoTopologyPeer})
	return ok && (has(conf, api.AnnotationAutoTopology) || has(conf, api.AnnotationAutoTopologyMesh)) || made && has(peer, api.AnnotationAutoTopology)
}

func has(e datastore.Entry, annotation string) bool {
	_, ok := e.Object.GetAnnotations()[annotation]
	return ok
}

// reconcile makes the next step, if one can be made.
func (c *Controller) reconcile(ctx context.Context, _ string) error {
	if !c.inUse() {
		c.said = ""
		return nil
	}
	out, err := c.runner.Once(ctx)
	if err != nil {
		return fmt.Errorf("auto-topology: %w", err)
	}
	switch {
	case len(out.Refused) > 0:
		c.say(ctx, slog.LevelWarn, "can't go on", out.Refused)
		c.queue.AddAfter(cluster, refusedAgain)
	case out.Step != nil:
		c.said = ""
		c.cfg.Log.Info("auto-topology", "step", out.Step.What)
		c.queue.Add(cluster)
	case len(out.Wait) > 0:
		c.say(ctx, slog.LevelInfo, "waits", out.Wait[:1])
		c.queue.AddAfter(cluster, lookAgain+time.Duration(out.State.Nodes)*lookAgainNode)
	default:
		c.say(ctx, slog.LevelInfo, "all is as it should be", nil)
		c.queue.AddAfter(cluster, refusedAgain) // a node may have become unready for long enough
	}
	return nil
}

// say logs what is new.
func (c *Controller) say(ctx context.Context, level slog.Level, state string, causes []string) {
	cause := strings.Join(causes, "; ")
	if text := state + cause; c.said != text {
		c.said = text
		c.cfg.Log.Log(ctx, level, "auto-topology", "state", state, "cause", cause)
	}
}

// unfit are the nodes that Kubernetes has not had ready for a while. Where it has no node
// ready, nobody is: the cause is elsewhere.
func (c *Controller) unfit(nodes []*api.Node) map[string]string {
	out := map[string]string{}
	ready := false
	for _, n := range nodes {
		k, ok := c.cfg.Nodes.Get("", n.KubernetesName())
		if n.KubernetesName() == "" || !ok {
			continue // another's, or about to be removed
		}
		since, is := readiness(k)
		ready = ready || is
		if !is && c.cfg.Now().Sub(since) >= unreadyFor {
			out[n.Name] = "Kubernetes says it has not been ready since " + since.UTC().Format(time.RFC3339)
		}
	}
	if !ready {
		return nil
	}
	return out
}

func readiness(n *corev1.Node) (since time.Time, ready bool) {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.LastTransitionTime.Time, cond.Status == corev1.ConditionTrue
		}
	}
	return n.CreationTimestamp.Time, false
}
