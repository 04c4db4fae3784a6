package dataplane

import (
	"context"
	"time"

	"tortie/felix/calc"
	"tortie/felix/podnet"
)

// sweeper finds devices that belong to no endpoint. One that an ADD has just made
// belongs to none yet, so a device is removed only after it was seen so for the
// whole grace.
type sweeper struct {
	grace    time.Duration
	suspects map[string]suspect
	due      time.Time // when to look next
}

type suspect struct {
	device podnet.Device
	since  time.Time
}

func newSweeper(grace time.Duration) sweeper {
	return sweeper{grace: grace, suspects: map[string]suspect{}}
}

// sweepDevices removes left-over devices and returns when to come again.
func (l *Loop) sweepDevices(ctx context.Context, w *work) time.Duration {
	s, now := &l.sweeper, time.Now()
	if w.hold {
		// The device of an endpoint that can't be read would look left over.
		clear(s.suspects)
		return idle
	}
	if !w.hints.resync && now.Before(s.due) {
		return s.due.Sub(now)
	}
	devices, err := l.cfg.Devices.Devices(ctx)
	if err != nil {
		l.log.Warn("left-over devices not looked for", "err", err)
		return s.schedule(now)
	}
	s.observe(devices, l.ownedInterfaces(), now)
	for _, d := range s.ripe(now) {
		l.log.Info("removing device that belongs to no endpoint", "iface", d.Name)
		if err := l.cfg.Devices.RemoveDevice(ctx, d); err != nil {
			l.log.Warn("left-over device not removed", "iface", d.Name, "err", err)
			continue
		}
		delete(s.suspects, d.Name)
	}
	return s.schedule(now)
}

// ownedInterfaces are the interfaces of the endpoints that should be.
func (l *Loop) ownedInterfaces() map[string]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	owned := map[string]struct{}{}
	l.endpoints.all(func(ep calc.Endpoint, _ bool) { owned[ep.Interface] = struct{}{} })
	return owned
}

// observe notes since when each device belongs to nobody. Another device under
// the same name begins anew.
func (s *sweeper) observe(devices []podnet.Device, owned map[string]struct{}, now time.Time) {
	still := make(map[string]suspect, len(s.suspects))
	for _, d := range devices {
		if _, has := owned[d.Name]; has {
			continue
		}
		known, ok := s.suspects[d.Name]
		if !ok || known.device.Index != d.Index {
			known.since = now
		}
		still[d.Name] = suspect{device: d, since: known.since}
	}
	s.suspects = still
}

func (s *sweeper) ripe(now time.Time) []podnet.Device {
	var out []podnet.Device
	for _, x := range s.suspects {
		if now.Sub(x.since) >= s.grace {
			out = append(out, x.device)
		}
	}
	return out
}

// schedule sets when to look next: when the oldest suspect is ripe, else after a
// grace.
func (s *sweeper) schedule(now time.Time) time.Duration {
	next := s.grace
	for _, x := range s.suspects {
		next = min(next, max(s.grace-now.Sub(x.since), time.Second))
	}
	s.due = now.Add(next)
	return next
}
