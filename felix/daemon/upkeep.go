package daemon

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"tortie/felix/calc"
	"tortie/felix/dataplane"
	"tortie/felix/podnet"
	"tortie/felix/problems"
)

// mender puts the node's ends of pods right; *podnet.Net is one.
type mender interface {
	Mend(a podnet.Attachment) (mended []string, err error)
}

// hostPortRules are the rules that lead ports of the node to pods; *hostports.Ports
// has them.
type hostPortRules interface {
	QueueResync()
	Apply(ctx context.Context) error
}

// upkeep looks at forwarding, at the pods' devices and their settings, and at the rules
// for host ports: now and then, for some of it tells nobody when it is changed, and at once at
// what the kernel tells of.
type upkeep struct {
	sysctls podnet.Sysctls
	pods    mender
	// attached is how a pod's device was made, and false for one that is not to be touched
	// now. Nil where nobody knows.
	attached  func(id calc.EndpointID, hostIf string) (podnet.Attachment, bool)
	hostPorts hostPortRules
	log       *slog.Logger
	kick      chan struct{} // holds one token when there is something to look at now
	rules     chan struct{} // the same for the rules for host ports alone
	suspected chan struct{} // the same for suspects

	mu         sync.Mutex
	forwarding bool // is ours to keep on
	every      time.Duration
	endpoints  map[calc.EndpointID]calc.Endpoint // never changed, only replaced
	sources    map[string]bool                   // the devices whose pods may send from others' addresses
	changed    map[string]bool                   // the devices for which that has changed since the last look
	suspects   map[string]bool                   // the devices that somebody may have changed
	failed     map[string]string                 // what last went wrong, by device; empty for forwarding
}

func newUpkeep(sysctls podnet.Sysctls, pods mender, hostPorts hostPortRules, log *slog.Logger) *upkeep {
	return &upkeep{sysctls: sysctls, pods: pods, hostPorts: hostPorts, log: log, kick: make(chan struct{}, 1), rules: make(chan struct{}, 1), suspected: make(chan struct{}, 1), suspects: map[string]bool{}, every: dataplane.DefaultResyncInterval}
}

// configure says whether forwarding is felix's to keep on, which it switches on soon, and
// how often to look.
func (u *upkeep) configure(forwarding bool, every time.Duration) {
	u.mu.Lock()
	changed := u.forwarding != forwarding || u.every != every
	u.forwarding, u.every = forwarding, every
	u.mu.Unlock()
	if changed {
		u.soon()
	}
}

func (u *upkeep) soon() {
	select {
	case u.kick <- struct{}{}:
	default:
	}
}

// lookAtRules has the rules for host ports looked at soon.
func (u *upkeep) lookAtRules() {
	select {
	case u.rules <- struct{}{}:
	default:
	}
}

func (u *upkeep) setEndpoints(endpoints map[calc.EndpointID]calc.Endpoint) {
	sources := map[string]bool{}
	for _, ep := range endpoints {
		if len(ep.Sources) > 0 {
			sources[ep.Interface] = true
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.endpoints = endpoints
	if maps.Equal(u.sources, sources) {
		return
	}
	if u.changed == nil {
		u.changed = map[string]bool{}
	}
	for _, some := range []map[string]bool{u.sources, sources} {
		for iface := range some {
			if u.sources[iface] != sources[iface] {
				u.changed[iface] = true
			}
		}
	}
	u.sources = sources
	u.soon()
}

func (u *upkeep) interval() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.every
}

// run looks every so often until ctx ends.
func (u *upkeep) run(ctx context.Context) error {
	timer := time.NewTimer(u.interval()) // the edge: run is the waiting alone
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-u.kick:
		case <-u.rules:
			u.hostPorts.QueueResync()
			_ = u.hostPorts.Apply(ctx) // what fails is tried again, and said, by the next look
			continue
		case <-ctx.Done():
			return nil
		}
		u.look(ctx)
		timer.Reset(u.interval())
	}
}

func (u *upkeep) look(ctx context.Context) {
	u.mu.Lock()
	endpoints, forwarding, changed := u.endpoints, u.forwarding, u.changed
	u.changed = nil
	u.mu.Unlock()
	failed := map[string]string{}
	if forwarding {
		mended, err := podnet.MendForwarding(u.sysctls)
		if u.succeeded(failed, "", err) && len(mended) > 0 {
			u.log.Warn("forwarding had been switched off, so that pods were cut off; it is on again", "was", strings.Join(mended, ", "))
		}
	}
	u.hostPorts.QueueResync()
	if err := u.hostPorts.Apply(ctx); ctx.Err() == nil { // logs by itself what it mended
		u.succeeded(failed, "host ports", err)
	}
	for id, ep := range endpoints {
		if ctx.Err() != nil {
			return
		}
		mended, err := u.mend(id, ep)
		if u.succeeded(failed, ep.Interface, err) && !changed[ep.Interface] {
			u.tellMended(id, ep, mended)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed = failed
}

// mend puts right the device of one pod.
func (u *upkeep) mend(id calc.EndpointID, ep calc.Endpoint) (mended []string, err error) {
	want := podnet.Attachment{HostIf: ep.Interface}
	if u.attached != nil {
		var settled bool
		if want, settled = u.attached(id, ep.Interface); !settled {
			return nil, nil
		}
	}
	want.Addrs, want.ManySources = ep.Addrs, len(ep.Sources) > 0
	return u.pods.Mend(want)
}

func (u *upkeep) tellMended(id calc.EndpointID, ep calc.Endpoint, mended []string) {
	if len(mended) > 0 {
		u.log.Warn("a pod's device had been changed; it is as it should be again", "iface", ep.Interface, "workload", id.String(), "was", strings.Join(mended, ", "))
	}
}

// suspect has a pod's device looked at soon. It returns at once.
func (u *upkeep) suspect(iface string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.suspects[iface] = true
	select {
	case u.suspected <- struct{}{}:
	default:
	}
}

// runSuspects looks at the devices that somebody may have changed, until ctx ends; once a
// second at most, so that who keeps changing one does not keep felix busy.
func (u *upkeep) runSuspects(ctx context.Context) error {
	for {
		select {
		case <-u.suspected:
		case <-ctx.Done():
			return nil
		}
		u.mendSuspects()
		sleep(ctx, lookPause)
	}
}

func (u *upkeep) mendSuspects() {
	u.mu.Lock()
	endpoints, suspects := u.endpoints, u.suspects
	u.suspects = map[string]bool{}
	u.mu.Unlock()
	for id, ep := range endpoints {
		if !suspects[ep.Interface] {
			continue
		}
		mended, err := u.mend(id, ep)
		u.tellMended(id, ep, mended)
		if err != nil {
			u.soon() // which says what is in the way
		}
	}
}

// problems: without forwarding no packet of a pod leaves its node.
func (u *upkeep) problems() []problems.Problem {
	u.mu.Lock()
	defer u.mu.Unlock()
	if failed := u.failed[""]; failed != "" {
		return logged(problem(reasonForwarding, "%s: give felix the node's /proc/sys/net, or set ipForwarding: Disabled and switch forwarding on yourself", failed))
	}
	return nil
}

// succeeded logs an error unless the same was there the last time.
func (u *upkeep) succeeded(failed map[string]string, what string, err error) bool {
	if err == nil {
		return true
	}
	failed[what] = err.Error()
	if u.failed[what] != err.Error() {
		u.log.Warn("settings of the node are not as they should be", "iface", what, "err", err)
	}
	return false
}
