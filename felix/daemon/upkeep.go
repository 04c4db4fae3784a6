package daemon

import (
	"context"
	"log/slog"
	"net/netip"
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
	Mend(hostIf string, addrs []netip.Addr) (mended []string, err error)
}

// hostPortRules are the rules that lead ports of the node to pods; *hostports.Ports
// has them.
type hostPortRules interface {
	QueueResync()
	Apply(ctx context.Context) error
}

// upkeep looks now and then at what tells nobody when it is changed: forwarding,
// the settings of the pods' devices, and the rules for host ports.
type upkeep struct {
	sysctls   podnet.Sysctls
	pods      mender
	hostPorts hostPortRules
	log       *slog.Logger
	kick      chan struct{} // holds one token when there is something to look at now
	rules     chan struct{} // the same for the rules for host ports alone

	mu         sync.Mutex
	forwarding bool // is ours to keep on
	every      time.Duration
	endpoints  map[calc.EndpointID]calc.Endpoint // never changed, only replaced
	failed     map[string]string                 // what last went wrong, by device; empty for forwarding
}

func newUpkeep(sysctls podnet.Sysctls, pods mender, hostPorts hostPortRules, log *slog.Logger) *upkeep {
	return &upkeep{sysctls: sysctls, pods: pods, hostPorts: hostPorts, log: log, kick: make(chan struct{}, 1), rules: make(chan struct{}, 1), every: dataplane.DefaultResyncInterval}
}

// configure says whether forwarding is felix's to keep on, which it switches on soon, and
// how often to look.
func (u *upkeep) configure(forwarding bool, every time.Duration) {
	u.mu.Lock()
	changed := u.forwarding != forwarding || u.every != every
	u.forwarding, u.every = forwarding, every
	u.mu.Unlock()
	if changed {
		select {
		case u.kick <- struct{}{}:
		default:
		}
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
	u.mu.Lock()
	defer u.mu.Unlock()
	u.endpoints = endpoints
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
	endpoints, forwarding := u.endpoints, u.forwarding
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
		mended, err := u.pods.Mend(ep.Interface, ep.Addrs)
		if u.succeeded(failed, ep.Interface, err) && len(mended) > 0 {
			u.log.Warn("settings of a pod's device had been changed; they are as they should be again",
				"iface", ep.Interface, "workload", id.String(), "was", strings.Join(mended, ", "))
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed = failed
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
