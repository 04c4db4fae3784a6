package cniserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"tortie/felix/calc"
	"tortie/felix/delegate"
	"tortie/felix/hostports"
	"tortie/felix/journal"
	"tortie/felix/podnet"
	"tortie/felix/ruleset"
	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
	"tortie/internal/podendpoint"
	"tortie/ipam"
)

const testNode = "node1"

// world is a node with a datastore in memory and doubles of what touches the
// kernel. The doubles keep state and watch what must hold at every moment.
type world struct {
	t     *testing.T
	reg   *api.Registry
	store *memory.Store
	dir   string

	mu      sync.Mutex
	held    map[ipam.HandleID][]netip.Addr
	owner   map[netip.Addr]ipam.HandleID
	next    int
	devices map[string]podnet.Attachment
	routes  map[calc.EndpointID]calc.Endpoint
	asked   ipam.Request    // the last one
	told    *podnet.Told    // of the last CHECK
	plugged []string        // the commands that the IPAM plugin of others got
	nft     *knftables.Fake // the node's table
	permits permits
	// answered are the results of ADDs, as a runtime keeps them for CHECK.
	answered map[string]json.RawMessage
	// uncarried are the pools that nothing carries, and why.
	uncarried map[netip.Prefix]string
	// fault is asked at every step, before ("assign") and after ("assigned") its
	// effect; an error is what the step returns.
	fault func(step string) error
	// dead: felix was killed. No effect comes through any more.
	dead bool
	// pods are those that Kubernetes has told of.
	pods map[string]*corev1.Pod
	// namespaces are the annotations of theirs that Kubernetes has told of; nil: it has
	// told of none yet.
	namespaces map[string]map[string]string
	// delegated is the last ADD of the IPAM plugin of others.
	delegated delegate.Call

	server  *Server
	state   *State
	journal *journal.Journal
	stop    func()
}

var (
	errInjected = errors.New("injected failure")
	errDead     = errors.New("felix is dead")
)

// inWorld makes a test of a world of its own. Time is that of a bubble (synctest): it
// passes when there is nothing else to do, so that to wait takes no time and waiting
// in vain is not a matter of the machine's speed. Connections are real all the same:
// a test must not wait for time while its server listens.
func inWorld(test func(t *testing.T, w *world)) func(*testing.T) {
	return func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	reg := api.NewRegistry()
	w := &world{
		t: t, reg: reg, store: memory.New(reg), dir: t.TempDir(),
		held: map[ipam.HandleID][]netip.Addr{}, owner: map[netip.Addr]ipam.HandleID{},
		devices: map[string]podnet.Attachment{}, routes: map[calc.EndpointID]calc.Endpoint{},
		answered: map[string]json.RawMessage{},
		nft:      knftables.NewFake(ruleset.Family, ruleset.Table), namespaces: map[string]map[string]string{},
	}
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR = "pool1", "10.65.0.0/16"
	w.put(pool)
	node := &api.Node{}
	node.Kind, node.APIVersion, node.Name = string(api.KindNode), api.GroupVersion, testNode
	w.put(node)
	w.start()
	w.awaitReady()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) put(obj api.Object) {
	w.t.Helper()
	w.reg.Default(obj)
	key, err := w.reg.KeyOf(obj)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.store.Txn(context.Background(), datastore.Put(key, obj)); err != nil {
		w.t.Fatal(err)
	}
}

// start starts a felix on the node.
func (w *world) start() {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	book, err := journal.Open(journal.Config{Dir: w.dir, Log: log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.journal, w.state = book, NewState(testNode)
	w.server, err = New(Config{
		Node: testNode, State: w.state, Client: faultyClient{w.store, w}, Registry: w.reg, Journal: book,
		Addresses: (*fakeIPAM)(w), Pods: (*fakePods)(w), Routes: (*fakeRoutes)(w), IPAMPlugins: (*fakePlugins)(w),
		HostPorts: faultyHostPorts{hostports.New(hostports.Config{NFT: w.nft, Log: log}), w},
		Permits:   &w.permits,
		Uncarried: func() map[netip.Prefix]string { return w.uncarried },
		MTU:       func() int { return 1450 }, NewUID: func() string { return "uid" }, Log: log, AddTimeout: 5 * time.Second,
		Pod: func(namespace, name, uid string) (*corev1.Pod, bool) {
			pod, ok := w.pods[namespace+"/"+name]
			return pod, ok && podendpoint.IsUID(pod, uid)
		},
		Namespace: func(name string) (map[string]string, bool) { return w.namespaces[name], w.namespaces != nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	syncer := datastore.NewSyncer(datastore.SyncerConfig{
		Client: w.store, Ranges: w.state.Ranges(), Sink: stateSink{w.state, w.server}, Log: log,
		Backoff: func(int) time.Duration { return time.Millisecond },
	})
	var wg sync.WaitGroup
	wg.Go(func() { _ = syncer.Run(ctx) })
	releaser := w.server.releaser
	wg.Go(func() { releaser.run(ctx) })
	w.stop = func() { cancel(); wg.Wait(); _ = book.Close() }
}

// kill ends felix as kill -9 does and leaves the disk as it is then.
func (w *world) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return
	}
	w.dead = true
	raw, err := os.ReadFile(filepath.Join(w.dir, "attachments.log"))
	if err != nil {
		w.t.Error(err)
	}
	w.dir = w.t.TempDir()
	if err := os.WriteFile(filepath.Join(w.dir, "attachments.log"), raw, 0o600); err != nil {
		w.t.Error(err)
	}
}

// restart starts felix after kill.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.mu.Lock()
	w.dead, w.fault = false, nil
	w.mu.Unlock()
	w.start()
	w.awaitReady()
}

func (w *world) awaitReady() {
	w.t.Helper()
	w.await("felix is ready", func() bool { return w.state.Ready() == nil })
}

// await lets the bubble's time pass until a condition holds that something in the
// background brings about.
func (w *world) await(what string, condition func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// at passes a step: it returns the failure that the step must show.
func (w *world) at(step string) error {
	w.mu.Lock()
	fault, dead := w.fault, w.dead
	w.mu.Unlock()
	if dead {
		return errDead
	}
	if fault == nil {
		return nil
	}
	return fault(step)
}

// effect changes the node's state, unless felix is dead.
func (w *world) effect(change func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	return change()
}

// through is a step: a fault before it, its effect, a fault after it.
func (w *world) through(ctx context.Context, before, after string, change func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.at(before); err != nil {
		return err
	}
	if err := w.effect(change); err != nil {
		return err
	}
	return w.at(after)
}

// stateSink hands on as the daemon does.
type stateSink struct {
	*State
	server *Server
}

func (s stateSink) OnStatus(status datastore.Status) {
	if status == datastore.InSync {
		_ = s.server.InSync(context.Background()) // a fault of the test's
	}
	s.State.OnStatus(status)
}

func (s stateSink) OnUpdates(u []datastore.SyncUpdate) { s.Apply(u) }

// faultyClient is the store as felix sees it.
type faultyClient struct {
	*memory.Store
	w *world
}

func (c faultyClient) Txn(ctx context.Context, ops ...datastore.Op) (datastore.Revision, error) {
	if err := c.w.at("write"); err != nil {
		return 0, err
	}
	rev, err := c.Store.Txn(ctx, ops...)
	if err == nil {
		err = c.w.at("written")
	}
	return rev, err
}

type fakeIPAM world

func (f *fakeIPAM) AutoAssign(ctx context.Context, req ipam.Request) (got []ipam.Assignment, err error) {
	w := (*world)(f)
	err = w.through(ctx, "assign", "assigned", func() error {
		w.asked = req
		for _, addr := range req.Addrs {
			got = append(got, ipam.Assignment{Addr: addr, Block: netip.PrefixFrom(addr, addr.BitLen()-6).Masked(), Pool: "pool1"})
		}
		for range req.Num4 {
			w.next++
			got = append(got, ipam.Assignment{
				Addr:  netip.AddrFrom4([4]byte{10, 65, byte(w.next >> 8), byte(w.next)}),
				Block: netip.MustParsePrefix("10.65.0.0/26"), Pool: "pool1",
			})
		}
		for range req.Num6 {
			w.next++
			got = append(got, ipam.Assignment{
				Addr:  netip.MustParseAddr(fmt.Sprintf("fd00::%x", w.next)),
				Block: netip.MustParsePrefix("fd00::/122"), Pool: "pool6",
			})
		}
		if req.With != nil {
			key, obj := req.With.Make(got)
			_, err := w.store.Txn(ctx, datastore.Create(key, obj))
			req.With.Created = err == nil
		}
		for _, a := range got {
			w.held[req.Handle] = append(w.held[req.Handle], a.Addr)
			w.owner[a.Addr] = req.Handle
		}
		return nil
	})
	return got, err
}

func (f *fakeIPAM) ReleaseByHandle(ctx context.Context, handle ipam.HandleID) (gone []netip.Addr, err error) {
	w := (*world)(f)
	err = w.through(ctx, "release", "released", func() error {
		gone = w.held[handle]
		for _, addr := range gone {
			delete(w.owner, addr)
			for id, ep := range w.routes {
				if slices.Contains(ep.Addrs, addr) {
					w.t.Errorf("%s was released while the route of %s stood", addr, id)
				}
			}
			for name, d := range w.devices {
				if slices.Contains(d.Addrs, addr) {
					w.t.Errorf("%s was released while device %s had it", addr, name)
				}
			}
		}
		delete(w.held, handle)
		return nil
	})
	return gone, err
}

func (f *fakeIPAM) ByHandle(ctx context.Context, handle ipam.HandleID) (held []netip.Addr, err error) {
	w := (*world)(f)
	err = w.through(ctx, "look", "looked", func() error { held = slices.Clone(w.held[handle]); return nil })
	return held, err
}

type fakePods world

func (f *fakePods) Add(ctx context.Context, a podnet.Attachment) (podnet.Attached, error) {
	w := (*world)(f)
	if a.Addrs == nil {
		var err error
		if a.Addrs, err = a.Late(ctx); err != nil {
			return podnet.Attached{}, err
		}
	}
	err := w.through(ctx, "wire", "wired", func() error { w.devices[a.HostIf] = a; return nil })
	if err != nil {
		return podnet.Attached{}, err
	}
	return podnet.Attached{HostIndex: 7, PodMAC: a.MAC, HostMAC: hostMAC, MTU: a.MTU}, nil
}

func (f *fakePods) Remove(ctx context.Context, hostIf string) error {
	w := (*world)(f)
	return w.through(ctx, "unwire", "unwired", func() error { delete(w.devices, hostIf); return nil })
}

func (f *fakePods) Check(_ context.Context, a podnet.Attachment, told *podnet.Told) error {
	w := (*world)(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = told
	if have, ok := w.devices[a.HostIf]; !ok || !slices.Equal(have.Addrs, a.Addrs) {
		return &podnet.DriftError{IfName: a.IfName, HostIf: a.HostIf, Differences: []string{"the node's device is missing"}}
	}
	return nil
}

// permits permits pods that much.
type permits struct{ sources, floating bool }

func (p *permits) Sources() error {
	if p.sources {
		return nil
	}
	return errors.New("set workloadSourceSpoofing: Any")
}

func (p *permits) Floating(addr netip.Addr) error {
	if p.floating {
		return nil
	}
	return fmt.Errorf("%s: set floatingIPs: Enabled", addr)
}

type fakeRoutes world

func (f *fakeRoutes) Upsert(ctx context.Context, ep calc.Endpoint, _ int) error {
	w := (*world)(f)
	return w.through(ctx, "route", "routed", func() error {
		if _, ok := w.devices[ep.Interface]; !ok {
			w.t.Errorf("route of %s without its device", ep.ID)
		}
		w.routes[ep.ID] = ep
		return nil
	})
}

func (f *fakeRoutes) Settle(ctx context.Context, id calc.EndpointID, container string) error {
	w := (*world)(f)
	return w.through(ctx, "settle", "settled", func() error {
		e, err := w.store.Get(ctx, id.Key())
		if wep, ok := e.Object.(*api.WorkloadEndpoint); err != nil || !ok || wep.Spec.ContainerID != container {
			w.t.Errorf("settle %s without its endpoint in the store: %v", id, err)
		}
		return nil
	})
}

func (f *fakeRoutes) Mend(ctx context.Context, ep calc.Endpoint, link int) error {
	return f.Upsert(ctx, ep, link)
}

func (f *fakeRoutes) Remove(ctx context.Context, id calc.EndpointID, container string) error {
	w := (*world)(f)
	return w.through(ctx, "unroute", "unrouted", func() error {
		if w.routes[id].ContainerID == container {
			delete(w.routes, id)
		}
		return nil
	})
}

func (f *fakeRoutes) Check(_ context.Context, ep calc.Endpoint) ([]string, error) {
	w := (*world)(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.routes[ep.ID].Equal(ep) {
		return []string{"the node has no route to the pod"}, nil
	}
	return nil, nil
}

// faultyHostPorts are the real ones on a table that is none.
type faultyHostPorts struct {
	*hostports.Ports
	w *world
}

func (f faultyHostPorts) Apply(ctx context.Context) error {
	return f.w.through(ctx, "map", "mapped", func() error { return f.Ports.Apply(ctx) })
}

// request is a CNI call for a container that is no pod.
func request(command, container string) cniwire.Request {
	return cniwire.Request{
		Version: cniwire.Version, Plugin: "calico", Command: command, ContainerID: container, IfName: "eth0",
		Netns: "/run/netns/" + container, Args: "IgnoreUnknown=1",
		Config: json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}}`),
	}
}

// podRequest is one for a pod.
func podRequest(command, container, pod string) cniwire.Request {
	r := request(command, container)
	r.Args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=" + pod
	return r
}

// call has felix carry out a call as a runtime makes it.
func (w *world) call(r cniwire.Request) cniwire.Response {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if r.Command == "CHECK" {
		r.Config = w.withResult(r)
	}
	resp := w.server.Handle(ctx, r)
	if r.Command == "ADD" && resp.Error == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.answered[r.ContainerID+"/"+r.IfName] = resp.Result
	}
	return resp
}

// withResult is a configuration with the result of the ADD, unless it has one; an empty one
// for what was never added.
func (w *world) withResult(r cniwire.Request) json.RawMessage {
	var conf map[string]json.RawMessage
	if json.Unmarshal(r.Config, &conf) != nil || conf["prevResult"] != nil {
		return r.Config
	}
	w.mu.Lock()
	result, ok := w.answered[r.ContainerID+"/"+r.IfName]
	w.mu.Unlock()
	if !ok {
		result = json.RawMessage(`{"cniVersion": ` + string(conf["cniVersion"]) + `}`)
	}
	conf["prevResult"] = result
	raw, err := json.Marshal(conf)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) ok(r cniwire.Request) json.RawMessage {
	w.t.Helper()
	resp := w.call(r)
	if resp.Error != nil {
		w.t.Fatalf("%s %s: code %d: %s", r.Command, r.ContainerID, resp.Error.Code, resp.Error.Msg)
	}
	return resp.Result
}

func (w *world) fails(r cniwire.Request, code uint) string {
	w.t.Helper()
	resp := w.call(r)
	if resp.Error == nil || resp.Error.Code != code {
		w.t.Fatalf("%s %s: %+v, want code %d", r.Command, r.ContainerID, resp.Error, code)
	}
	return resp.Error.Msg
}

// settled waits until nothing is left to release.
func (w *world) settled() {
	w.t.Helper()
	w.await("all releases are done", func() bool { return w.server.PendingReleases() == 0 })
}

// wantNothing checks that no trace of any attachment is left.
func (w *world) wantNothing() {
	w.t.Helper()
	w.settled()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) > 0 || len(w.devices) > 0 || len(w.routes) > 0 {
		w.t.Errorf("left behind: addresses %v, devices %v, routes %v", w.held, w.devices, w.routes)
	}
	if w.nft.Table != nil {
		w.t.Errorf("left behind: rules\n%s", w.nft.Dump())
	}
	if weps := w.endpoints(); len(weps) > 0 {
		w.t.Errorf("left behind: endpoints %v", weps)
	}
	if entries := w.journal.Entries(); len(entries) > 0 {
		w.t.Errorf("left in the journal: %+v", entries)
	}
}

// endpoints are the names of all stored endpoints.
func (w *world) endpoints() []string {
	snapshot, err := w.store.List(context.Background(), datastore.Range{Kind: api.KindWorkloadEndpoint})
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range snapshot.Entries {
		names = append(names, e.Key.Namespace+"/"+e.Key.Name)
	}
	return names
}

func (w *world) endpoint(namespace, name string) *api.WorkloadEndpoint {
	w.t.Helper()
	e, err := w.store.Get(context.Background(), api.Key{Kind: api.KindWorkloadEndpoint, Namespace: namespace, Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Object.(*api.WorkloadEndpoint)
}
