package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"k8s.io/klog/v2"

	"tortie/felix/cluster"
	"tortie/internal/kubeapi"
	"tortie/internal/kubeevent"
	"tortie/internal/quietlog"
)

// role is what has to allow felix's requests to the API server.
const role = "ClusterRole calico-node"

// kubernetes is what of felix needs the API server. It is nil where there is none,
// and felix does without.
type kubernetes struct {
	name   string // this node's in Kubernetes
	client *kubeapi.Client
	events *kubeevent.Recorder
	say    func(ctx context.Context, w kubeevent.Warning) error

	pods       *cluster.Pods
	namespaces *cluster.Namespaces
	keeper     *cluster.Keeper
	node       *cluster.Node
	condition  *cluster.Condition
}

// connectKubernetes finds the API server, without talking to it. There is none where
// this is no cluster of Kubernetes, and where a pod has no service account: then
// without says so, for felix can do its work all the same. A KUBECONFIG that can't be
// read is an error.
func connectKubernetes(p Process, node string, log *slog.Logger) (k *kubernetes, without, err error) {
	kubeconfig := p.getenv("KUBECONFIG")
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: kubeconfig, UserAgent: "felix/" + p.Version, Role: role})
	switch {
	case errors.Is(err, kubeapi.ErrNoCluster):
		return nil, nil, nil
	case err != nil && kubeconfig == "":
		return nil, err, nil
	case err != nil:
		return nil, nil, err
	}
	klog.SetSlogLogger(quietlog.New(log).With("from", "client-go"))
	return newKubernetes(client, p, node, log), nil, nil
}

func newKubernetes(client *kubeapi.Client, p Process, node string, log *slog.Logger) *kubernetes {
	name := p.getenv("CALICO_K8S_NODE_REF")
	if name == "" {
		name = node
	}
	api := kubeevent.API{Component: "felix", Host: name}
	api.Client, api.Base = client.HTTP()
	about := kubeevent.About(name, p.getenv)
	return &kubernetes{
		name: name, client: client,
		events: kubeevent.New(kubeevent.Config{API: api, About: about, Role: role, Log: log}),
		say: func(ctx context.Context, w kubeevent.Warning) error {
			return kubeevent.Say(ctx, api, about, w)
		},
	}
}

// build makes the parts that follow Kubernetes.
func (k *kubernetes) build(f *felix) {
	k.keeper, k.pods = cluster.NewKeeper(f.node, f.client, f.log)
	k.namespaces = &cluster.Namespaces{}
	k.node = cluster.NewNode(k.name, func() { f.registrar.Again() })
	k.condition = &cluster.Condition{API: k.client, Node: k.node, Ready: f.ready, Log: f.log}
}

// downTimeout bounds the last word to the API server.
const downTimeout = 2 * time.Second

// run follows Kubernetes until base ends. When ctx, the order to end, comes, it says
// so to the scheduler first.
func (k *kubernetes) run(ctx, base context.Context, start func(func() error)) {
	start(func() error { kubeapi.Follow(base, k.client, cluster.PodsOf(k.name), k.pods); return nil })
	start(func() error { kubeapi.Follow(base, k.client, cluster.AllNamespaces(), k.namespaces); return nil })
	start(func() error { kubeapi.Follow(base, k.client, cluster.NodeNamed(k.name), k.node); return nil })
	start(func() error { return k.keeper.Run(base) })
	start(func() error { return k.events.Run(base) })
	start(func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(base, cancel)()
		_ = k.condition.Run(ctx) // it only ends with ctx
		down, cancelDown := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancelDown()
		_ = k.condition.Down(down) // nobody is left to try again
		return nil
	})
}
