package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/podendpoint"
	"tortie/internal/qos"
)

// Keeper brings what Kubernetes says of this node's pods into their endpoints: of a
// pod whose ADD was faster than its event, and of one that has changed.
//
// It writes when a pod changes, and when a container's endpoint is seen for the first
// time: never because somebody else wrote. kube-controllers writes the same, at times
// from an older view of the pod; to put that right is its own business, or the two
// would write against each other.
type Keeper struct {
	node   string
	client datastore.Client
	pods   *Pods
	log    *slog.Logger

	mu        sync.Mutex
	endpoints map[api.Key]datastore.Entry // this node's, of pods
	byPod     map[podKey]map[api.Key]bool
	due       map[api.Key]attempt
	said      map[api.Key]string // the container whose missing ports have been told of
	wrong     map[api.Key]string // the limits that can't be read
	wake      chan struct{}      // holds one token when something is due
}

// NewKeeper makes a Keeper and the pods it looks at. Feed it with Apply, and Run it.
func NewKeeper(node string, client datastore.Client, log *slog.Logger) (*Keeper, *Pods) {
	k := &Keeper{
		node: node, client: client, log: log,
		endpoints: map[api.Key]datastore.Entry{}, byPod: map[podKey]map[api.Key]bool{}, due: map[api.Key]attempt{}, said: map[api.Key]string{}, wrong: map[api.Key]string{}, wake: make(chan struct{}, 1),
	}
	k.pods = NewPods(k.podChanged)
	return k, k.pods
}

// Apply takes in what the datastore tells of endpoints.
func (k *Keeper) Apply(updates []datastore.SyncUpdate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, u := range updates {
		if u.Key.Kind == api.KindWorkloadEndpoint {
			k.take(u)
		}
	}
}

func (k *Keeper) take(u datastore.SyncUpdate) {
	before, known := k.endpoints[u.Key]
	if known {
		delete(k.endpoints, u.Key)
		key := podOf(before)
		if delete(k.byPod[key], u.Key); len(k.byPod[key]) == 0 {
			delete(k.byPod, key)
		}
	}
	if u.Entry == nil {
		delete(k.said, u.Key)
		delete(k.wrong, u.Key)
		return
	}
	wep, ok := u.Entry.Object.(*api.WorkloadEndpoint)
	if !ok || wep.Spec.Node != k.node || wep.Spec.Orchestrator != v3.OrchestratorKubernetes {
		return
	}
	key := podKey{wep.Namespace, wep.Spec.Pod}
	k.endpoints[u.Key] = *u.Entry
	if k.byPod[key] == nil {
		k.byPod[key] = map[api.Key]bool{}
	}
	k.byPod[key][u.Key] = true
	if !known || before.Object.(*api.WorkloadEndpoint).Spec.ContainerID != wep.Spec.ContainerID {
		k.mark(u.Key)
	}
}

func podOf(e datastore.Entry) podKey {
	wep := e.Object.(*api.WorkloadEndpoint)
	return podKey{wep.Namespace, wep.Spec.Pod}
}

// podChanged marks the pod's endpoints.
func (k *Keeper) podChanged(namespace, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.byPod[podKey{namespace, name}] {
		k.mark(key)
	}
}

// mark makes an endpoint due at once: whatever was refused before, there is news.
func (k *Keeper) mark(key api.Key) {
	k.due[key] = attempt{}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// attempt is when an endpoint is to be written, and how long it then waits if it is
// refused once more. The zero value is due at once.
type attempt struct {
	next  time.Time
	pause time.Duration
}

// after is the attempt that follows a refusal.
func (a attempt) after(now time.Time) attempt {
	pause := max(a.pause, pauseMin)
	return attempt{next: now.Add(pause), pause: min(2*pause, refusedMax)}
}

// The pauses after a failure. What is refused of one endpoint waits up to refusedMax,
// or for its pod to change; nothing else waits for it.
const (
	pauseMin, pauseMax = time.Second, 30 * time.Second
	refusedMax         = 10 * time.Minute
	writeTimeout       = 10 * time.Second
)

// Run writes what is due until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	pause := pauseMin
	for {
		err := k.work(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it failed because all ends
		}
		away := errors.Is(err, datastore.ErrUnavailable)
		wait, wake := k.untilNext(pause, away), k.wake
		if err != nil {
			k.log.Warn("what Kubernetes says of a pod can't be written into its endpoint; trying again", "in", wait, "err", err)
		}
		if away { // what is new can't be written, either
			wake, pause = nil, min(2*pause, pauseMax)
		} else {
			pause = pauseMin
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// untilNext is how long nothing is to be written: for a pause while the datastore is
// away.
func (k *Keeper) untilNext(pause time.Duration, away bool) time.Duration {
	if away {
		return pause
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := refusedMax
	for _, a := range k.due {
		wait = min(wait, max(time.Until(a.next), 0))
	}
	return wait
}

// work writes all that is due; what fails stays due.
func (k *Keeper) work(ctx context.Context) error {
	var failed error
	for key, tried := range k.takeDue(time.Now()) {
		err := k.update(ctx, key)
		if err == nil {
			continue
		}
		failed = errors.Join(failed, err)
		if !errors.Is(err, datastore.ErrUnavailable) {
			tried = tried.after(time.Now())
		}
		k.mu.Lock()
		if _, news := k.due[key]; !news {
			k.due[key] = tried
		}
		k.mu.Unlock()
	}
	return failed
}

// takeDue takes out what is due by now.
func (k *Keeper) takeDue(now time.Time) map[api.Key]attempt {
	k.mu.Lock()
	defer k.mu.Unlock()
	due := map[api.Key]attempt{}
	for key, a := range k.due {
		if !now.Before(a.next) {
			due[key] = a
			delete(k.due, key)
		}
	}
	return due
}

// maxConflicts bounds how often a write is tried again because someone else changed
// the endpoint meanwhile.
const maxConflicts = 8

// update brings one endpoint up to date.
func (k *Keeper) update(ctx context.Context, key api.Key) error {
	k.mu.Lock()
	entry, ok := k.endpoints[key]
	k.mu.Unlock()
	for range maxConflicts {
		if !ok {
			return nil
		}
		wanted, changed := k.wanted(entry)
		if !changed {
			return nil
		}
		entry.Object = wanted
		writing, cancel := context.WithTimeout(ctx, writeTimeout)
		_, err := k.client.Txn(writing, datastore.Update(entry))
		cancel()
		conflict, isConflict := errors.AsType[*datastore.ConflictError](err)
		switch {
		case err == nil:
			return nil
		case !isConflict:
			return fmt.Errorf("update %s: %w", key, err)
		}
		entry, ok = conflict.Current[key]
	}
	return fmt.Errorf("update %s: %w again and again", key, datastore.ErrConflict)
}

// wanted is an endpoint with what is known of its pod. A pod that is being deleted
// says nothing: a later one of its name may have the endpoint by now.
func (k *Keeper) wanted(entry datastore.Entry) (*api.WorkloadEndpoint, bool) {
	wep, ok := entry.Object.(*api.WorkloadEndpoint)
	if !ok || wep.Spec.Node != k.node || wep.Spec.Orchestrator != v3.OrchestratorKubernetes {
		return nil, false
	}
	pod, ok := k.pods.Get(wep.Namespace, wep.Spec.Pod, "")
	if !ok || !speaks(pod) {
		return nil, false
	}
	k.sayLeftOut(entry.Key, wep.Spec.ContainerID, pod)
	k.noteWrong(entry.Key, wep, pod)
	return podendpoint.With(wep, pod)
}

// noteWrong keeps in mind which limits of a pod can't be read: the pod runs on with those
// it has.
func (k *Keeper) noteWrong(key api.Key, wep *api.WorkloadEndpoint, pod *corev1.Pod) {
	_, err := podendpoint.Limits(wep, pod)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.wrong, key)
	if wrong, ok := errors.AsType[*qos.Error](err); ok {
		k.wrong[key] = fmt.Sprintf("pod %s/%s goes on with the limits it has, for those of its annotations can't be: annotation %s", pod.Namespace, pod.Name, wrong)
	}
}

// Unheeded has a line for each pod whose limits can't be read, by its endpoint.
func (k *Keeper) Unheeded() map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := make(map[string]string, len(k.wrong))
	for key, line := range k.wrong {
		lines[key.String()] = line
	}
	return lines
}

// sayLeftOut tells once of each container of the ports that its endpoint has no room
// for.
func (k *Keeper) sayLeftOut(key api.Key, container string, pod *corev1.Pod) {
	n := podendpoint.PortsLeftOut(pod)
	if n == 0 {
		return
	}
	k.mu.Lock()
	before, said := k.said[key]
	k.said[key] = container
	k.mu.Unlock()
	if !said || before != container {
		k.log.Warn("a pod has more ports than its endpoint has room for: policies don't know the last of them by name; name fewer",
			"pod", pod.Namespace+"/"+pod.Name, "left-out", n)
	}
}

// speaks reports whether what is known of a pod is about its endpoint.
func speaks(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !pod.Spec.HostNetwork
}
