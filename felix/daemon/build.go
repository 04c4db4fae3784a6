package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"

	"tortie/felix/calc"
	"tortie/felix/cniserver"
	"tortie/felix/config"
	"tortie/felix/dataplane"
	"tortie/felix/delegate"
	"tortie/felix/hostports"
	"tortie/felix/hostways"
	"tortie/felix/ipip"
	"tortie/felix/journal"
	"tortie/felix/pathmtu"
	"tortie/felix/peering"
	"tortie/felix/podnet"
	"tortie/felix/problems"
	"tortie/felix/registration"
	"tortie/felix/ruleset"
	"tortie/felix/tunnels"
	"tortie/felix/vxlan"
	"tortie/felix/wireguard"
	"tortie/felix/wireguard/userspace"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/kernel"
	"tortie/internal/overlay"
	"tortie/internal/routetable"
	"tortie/ipam"
)

// felix is all parts of the daemon.
type felix struct {
	node     string
	client   datastore.Client
	registry *api.Registry
	journal  *journal.Journal
	config   *configFollower
	newUID   func() string
	level    *slog.LevelVar
	settings registration.Settings
	etcd     []string // where the datastore is reached
	backend  string   // CALICO_NETWORKING_BACKEND
	log      *slog.Logger

	kubernetes *kubernetes              // nil where there is none
	without    error                    // why there is none, though this is a cluster
	missing    func() error             // what the kernel lacks
	show       func([]problems.Problem) // tells what is wrong; all of it
	programmed atomic.Pointer[calc.State]

	kernel *kernel.Handle // of the node's network namespace
	rules  func(settings func() config.Config, node tracking, log *slog.Logger) []dataplane.Rules
	// made are the rules that those are.
	made []dataplane.Rules

	pods        *podnet.Net
	loop        *dataplane.Loop
	allocator   *ipam.Allocator
	addressing  *ipam.Tracker // what the allocator knows of the cluster
	history     *ipam.Recorder
	loans       *loans
	tunnels     tunnels.Set
	hostWays    *hostways.Ways
	marks       *hostways.Marks
	guards      []tunnelGuard
	privateKeys *wireguard.Keys
	endpoint    *registration.Tunnels // their addresses
	keys        *registration.Keys
	underlay    *underlay
	hostPorts   *hostports.Ports
	upkeep      *upkeep
	listeners   *listeners
	nodes       *nodeBook
	pathMTU     *pathmtu.Prober
	peering     *peering.Addresses
	registrar   *registration.Registrar
	state       *cniserver.State
	problems    problemLog
	policies    *policies
	board       *problems.Board
	server      *cniserver.Server
	listener    net.Listener
	syncer      *datastore.Syncer
}

// build makes the parts. It changes nothing in the kernel but forwarding.
func (f *felix) build() (err error) {
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	cfg := f.config.Now()
	if err := f.buildDataplane(cfg); err != nil {
		return err
	}
	f.addressing = ipam.NewTracker(f.node)
	f.history = ipam.NewRecorder(f.client, f.log)
	f.allocator = ipam.New(ipam.Config{Client: f.client, Node: f.node, View: f.addressing, Recorder: f.history, Log: f.log})
	f.endpoint = registration.NewTunnels(registration.TunnelConfig{
		Node: f.node, Client: f.client, Registry: f.registry, Addresses: f.allocator,
		Prepare: f.prepare, Forget: f.tunnels.Forget, Log: f.log,
	})
	f.keys = registration.NewKeys(registration.KeyConfig{
		Node: f.node, Client: f.client, Registry: f.registry, Keys: f.privateKeys,
		Prepare: f.tunnels.WireGuard.Prepare, Rekeyed: f.tunnels.WireGuard.Rekeyed, Log: f.log,
	})
	f.state, f.policies = cniserver.NewState(f.node), &policies{}
	f.problems.log = f.log
	follow, known := f.buildKubernetes()
	registered := registration.Config{
		Node: f.node, Settings: f.settings, Client: f.client, Registry: f.registry, Kernel: f.kernel, Log: f.log,
	}
	if f.kubernetes != nil {
		registered.InternalIPs = f.kubernetes.node.InternalIPs
	}
	f.registrar = registration.New(registered)
	f.board = problems.New(f.log, f.show, f.sources()...)
	f.loans = newLoans(f.node, func(ctx context.Context, only ...netip.Prefix) error {
		return ipam.MendLoans(ctx, f.client, f.node, only...)
	}, f.log)
	hears := &sink{
		graph: calc.New(f.node), follow: append(follow, f.addressing, f.state, f.policies, f.nodes, f.loans),
		config: f.config, configure: f.configure, program: f.program, complete: f.complete, onStatus: f.state.OnStatus,
	}
	f.syncer = datastore.NewSyncer(datastore.SyncerConfig{
		Client: f.client,
		Ranges: ranges(f.addressing.Ranges(), f.state.Ranges(), hears.graph.Ranges(), f.config.Ranges(), f.policies.Ranges()),
		Sink:   hears,
		Log:    f.log,
	})
	hears.more = f.syncer.Follow
	var podCIDRs func() []netip.Prefix
	var namespace func(string) (map[string]string, bool)
	if f.kubernetes != nil {
		podCIDRs, namespace = f.kubernetes.node.PodCIDRs, f.kubernetes.namespaces.Get
	}
	f.server, err = cniserver.New(cniserver.Config{
		Node: f.node, State: f.state, Client: f.client, Registry: f.registry, Journal: f.journal,
		Addresses: f.allocator, Pods: f.pods, Routes: f.loop, HostPorts: f.hostPorts, Permits: permits{f.config.Now, f.desired}, IPAMPlugins: delegate.Runner{}, PodCIDRs: podCIDRs, MTU: f.underlay.MTU, MTULimit: f.underlay.limit, Uncarried: f.uncarried, NodeProblem: f.registrar.Problem, Barred: f.barred, NewUID: f.newUID, Log: f.log,
		Surroundings: surroundings{f.kernel, f.etcd, net.DefaultResolver.LookupNetIP, f.desired}.now,
		Health:       f.syncer.Health, Pod: known, Namespace: namespace, AddTimeout: cfg.CNITimeout, DelTimeout: cfg.CNITimeout,
	})
	if err != nil {
		return err
	}
	f.upkeep.attached = f.server.Attached
	f.listener, err = cniserver.Listen(cfg.CNISocket)
	f.configure(cfg)
	return err
}

// buildKubernetes makes what follows Kubernetes: who else hears of the datastore, and
// who knows pods.
func (f *felix) buildKubernetes() ([]follower, cniserver.Pod) {
	if f.kubernetes == nil {
		return nil, nil
	}
	f.kubernetes.build(f)
	return []follower{f.kubernetes.keeper}, f.kubernetes.pods.Get
}

func (f *felix) buildDataplane(cfg config.Config) (err error) {
	if cfg.IPForwarding {
		if err := podnet.EnsureForwarding(f.kernel); err != nil {
			return fmt.Errorf("%w; run felix as root, and in a container with the node's /proc/sys/net at /host/proc/sys/net, or set FELIX_IPFORWARDING=Disabled and switch forwarding on yourself", err)
		}
	}
	if f.pods, err = podnet.New(podnet.Config{Kernel: f.kernel, Log: f.log}); err != nil {
		return err
	}
	f.privateKeys = wireguard.OpenKeys(filepath.Join(filepath.Dir(cfg.JournalDir), wireguard.KeyFile), f.log)
	f.underlay = &underlay{kernel: f.kernel, file: cfg.MTUFile, changed: func() { f.loop.Resync() }, log: f.log}
	f.hostWays, f.marks = hostways.New(f.kernel, f.log), hostways.NewMarks(f.log)
	f.tunnels = tunnels.Set{
		VXLAN: vxlan.New(vxlan.Config{Kernel: f.kernel, MTU: f.underlay.tunnelMTU, Log: f.log}),
		IPIP:  ipip.New(ipip.Config{Kernel: f.kernel, MTU: f.underlay.ipipMTU, Log: f.log}),
		WireGuard: wireguard.New(wireguard.Config{
			Kernel: f.kernel, Keys: f.privateKeys, MTU: f.underlay.secureMTU, Log: f.log, Wake: func() { f.loop.TunnelsDue() }, Hosts: f.hostWays, Ready: f.marks.Know,
			Open:      func() (wireguard.Control, error) { return wgctrl.New() },
			Listen:    wireguard.CanListen,
			Userspace: func(name string, mtu int) error { return userspace.Start(name, mtu, (*exec.Cmd).Start, f.log) },
		}),
	}
	f.hostPorts = hostports.New(hostports.Config{Forget: f.kernel.ForgetDatagrams, Log: f.log})
	f.peering = peering.New(f.kernel, cfg.RouteRefreshInterval, f.log)
	f.upkeep = newUpkeep(f.kernel, f.pods, f.hostPorts, f.log)
	f.listeners = newListeners(f.log)
	f.nodes, f.pathMTU = newNodeBook(f.node), f.newPathMTU(cfg.PathMTUProbeInterval)
	f.nodes.changed = func() { f.registrar.NodesChanged() }
	f.made = append(f.rules(f.config.Now, f.kernel, f.log), hostMarks{f.marks, f.tunnels.WireGuard.Settings})
	for _, r := range f.made {
		if guard, ok := r.(tunnelGuard); ok {
			f.guards = append(f.guards, guard)
		}
	}
	f.loop, err = dataplane.New(dataplane.Config{
		Kernel:  f.kernel,
		Routes:  routetable.New(routetable.Config{Kernel: f.kernel, Protocol: kernel.ProtocolFelix, Log: f.log}),
		Rules:   f.made,
		Limits:  newLimits(f.kernel, f.pods, f.log),
		Tunnels: f.tunnels,
		Devices: f.pods, Suspect: f.upkeep.suspect, Log: f.log,
	})
	return err
}

// configure hands the configuration to those who act on it. Who computes something of it
// and the State alike is told of the two by program.
func (f *felix) configure(cfg config.Config) {
	f.level.Set(cfg.LogLevel)
	f.underlay.configure(cfg.VXLAN, cfg.IPIP, cfg.Wireguard, cfg.MTU)
	f.tunnels.VXLAN.Configure(vxlan.Settings{VNI: cfg.VXLAN.VNI, Port: cfg.VXLAN.Port})
	f.hostWays.Configure(hostways.Settings{Table: cfg.Wireguard.Table, Priority: cfg.Wireguard.Priority})
	f.tunnels.WireGuard.Configure(wireguardSettings(cfg))
	f.loop.SetResyncInterval(cfg.RouteRefreshInterval)
	f.peering.SetInterval(cfg.RouteRefreshInterval)
	f.upkeep.configure(cfg.IPForwarding, cfg.RouteRefreshInterval)
	f.listeners.set(f.endpoints(cfg))
	f.loop.Resync() // which has everybody look at what is to be done now
}

func wireguardSettings(cfg config.Config) wireguard.Settings {
	w := cfg.Wireguard
	return wireguard.Settings{Name4: w.Name4, Name6: w.Name6, Port4: w.Port4, Port6: w.Port6, KeepAlive: w.KeepAlive, Hosts: w.Hosts}
}

func (f *felix) lookAtRules() {
	f.loop.ResyncRules()
	f.upkeep.lookAtRules()
}

// lookAtSettings has the node's and the pods' devices looked at, and the tunnels'.
func (f *felix) lookAtSettings() {
	f.upkeep.soon()
	f.loop.TunnelsDue()
}

// followed are what the kernel tells of that is looked at again by whoever keeps it.
func (f *felix) followed() []followed {
	return []followed{
		{func(ctx context.Context) (<-chan struct{}, error) {
			return f.kernel.RuleChanges(ctx, ruleset.Table, isChild)
		}, f.lookAtRules},
		{f.kernel.TunnelChanges, f.loop.TunnelsDue},
		{f.kernel.SettingChanges, f.lookAtSettings},
		{f.kernel.QueueChanges, f.loop.ResyncLimits},
		{func(ctx context.Context) (<-chan struct{}, error) {
			return f.kernel.RoutingChanges(ctx, f.hostWays.Concerns)
		}, f.loop.TunnelsDue},
	}
}

// program hands a new desired state to those who act on it.
func (f *felix) program(s calc.State) {
	cfg := f.config.Now()
	s.TunnelPools = enabled(slices.Concat(s.TunnelPools, s.SecurePools), cfg)
	s.Restrict(permitted(cfg))
	f.programmed.Store(&s) // from here on s is read by others
	f.problems.report(s.Problems)
	f.underlay.set(s.NodeAddrs, s.TunnelPools)
	f.tunnels.Desire(s)
	f.endpoint.Want(s.TunnelPools, s.Tunnels, s.IPIP, s.Secure)
	f.keys.Want(registration.KeyWish{
		V4: cfg.Wireguard.Enabled4, V6: cfg.Wireguard.Enabled6, Lifetime: cfg.Wireguard.KeyLifetime, Request: s.KeyRequest, Shown: s.Self,
		Floating: s.FloatingAddresses(cfg.Wireguard.Enabled4, cfg.Wireguard.Enabled6), FloatingShown: s.FloatingShown,
	})
	f.upkeep.setEndpoints(s.Endpoints)
	f.loop.SetState(s)
	f.peering.Set(s.Peering)
}

// prepare makes the device of an end that is about to be published, once strangers are
// kept out of it.
func (f *felix) prepare(ctx context.Context, by overlay.Carrier, end overlay.End) error {
	for _, guard := range f.guards {
		if guard.by == by {
			guard.Set(f.desired())
			if err := guard.Apply(ctx); err != nil {
				return err
			}
		}
	}
	return f.tunnels.Prepare(ctx, by, end)
}

// enabled are the pools whose overlay this node has a part in.
func enabled(pools []calc.TunnelPool, cfg config.Config) []calc.TunnelPool {
	return slices.DeleteFunc(slices.Clone(pools), func(p calc.TunnelPool) bool {
		switch p.By {
		case overlay.VXLAN:
			return !cfg.VXLAN.Enabled
		case overlay.IPIP:
			return !cfg.IPIP.Enabled
		case overlay.WireGuard:
			return p.Prefix.Addr().Is4() && !cfg.Wireguard.Enabled4 || p.Prefix.Addr().Is6() && !cfg.Wireguard.Enabled6
		}
		return false
	})
}

// hostPortTimeout bounds the first look at the rules for host ports, during which felix
// hears nothing of the datastore.
const hostPortTimeout = 10 * time.Second

// complete is called when all of the datastore has been read, before whoever serves CNI
// calls learns of it.
func (f *felix) complete() {
	ctx, cancel := context.WithTimeout(context.Background(), hostPortTimeout)
	defer cancel()
	f.firstRules(ctx)
	f.loop.InSync()
	if err := f.server.InSync(ctx); err != nil { // tried again by the upkeep
		f.log.Warn("settings of the node are not as they should be", "err", err)
	}
}

// firstRules makes the rules stand before the first ADD: no pod is ever without those for
// what it may send. The loop goes on with what fails.
func (f *felix) firstRules(ctx context.Context) {
	for _, rules := range f.made {
		rules.Set(f.desired())
		if err := rules.Apply(ctx); err != nil {
			f.log.Warn("packet rules are not as they should be yet", "err", err)
		}
	}
}

// ready is nil once the kernel has been made to agree with the datastore. Not being
// in touch with the datastore doesn't make a running felix unready: pods run on, and
// its restart would mend nothing.
func (f *felix) ready() error {
	if err := f.server.Ready(); err != nil {
		return err
	}
	if err := f.missing(); err != nil {
		return err
	}
	if len(f.desired().NodeAddrs) == 0 {
		err := fmt.Errorf("node %s has no address in the datastore, so that no other node could reach its pods", f.node)
		if problem := f.registrar.Problem(); problem != nil {
			err = fmt.Errorf("%w: %w", err, problem)
		}
		return err
	}
	if err := f.underlay.ready(); err != nil {
		return err
	}
	if s := f.loop.Status(); !s.InSync || s.LastApply.IsZero() {
		return errors.New("the routes of this node have not been programmed yet")
	}
	return nil
}

func (f *felix) close() {
	if f.listener != nil {
		_ = f.listener.Close()
	}
	if f.allocator != nil {
		f.allocator.Close()
	}
}
