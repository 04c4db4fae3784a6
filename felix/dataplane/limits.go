package dataplane

import (
	"context"
	"errors"
	"maps"
	"slices"

	"tortie/felix/calc"
	"tortie/internal/api"
)

// Limited is an endpoint whose traffic has limits.
type Limited struct {
	Interface string
	// Link is the index of the interface; 0 while there is none.
	Link   int
	Limits *api.QoSControls
}

// Limits is a reconciler of some limits of pods' traffic. An error that is about one
// interface has a method OnInterface.
type Limits interface {
	// Set declares all endpoints that have limits; s says what is within the cluster.
	Set(all []Limited, s calc.State)
	QueueResync()
	Apply(ctx context.Context) error
	// Check names what is not as it should be of an endpoint.
	Check(ctx context.Context, one Limited) ([]string, error)
}

// applyLimits makes the limits of endpoints as they should be. Where no endpoint has any,
// and none had, it does nothing but for the periodic resync.
func (l *Loop) applyLimits(ctx context.Context, w *work, retry bool) error {
	if !w.inSync || len(l.cfg.Limits) == 0 {
		return nil
	}
	l.mu.Lock()
	limited, state := l.limitedEndpoints(), l.state
	l.mu.Unlock()
	changed := !maps.EqualFunc(limited, l.limited, func(a, b Limited) bool {
		return a.Link == b.Link && a.Limits.Equal(b.Limits)
	}) || len(limited) > 0 && w.rules != nil
	resync := w.hints.resync || w.hints.rules || w.hints.shapers || !l.limitsBegun
	if !changed && !resync && !(l.limitErr != nil && retry) {
		return l.limitErr
	}
	l.limited, l.limitsBegun = limited, true
	all := make([]Limited, 0, len(limited))
	for _, name := range slices.Sorted(maps.Keys(limited)) {
		all = append(all, limited[name])
	}
	var errs []error
	for _, limits := range l.cfg.Limits {
		limits.Set(all, state)
		if resync {
			limits.QueueResync()
		}
		errs = append(errs, limits.Apply(ctx))
	}
	l.limitErr = errors.Join(errs...)
	return l.limitErr
}

// limitedEndpoints are those with limits, by interface. It is called with the lock held.
func (l *Loop) limitedEndpoints() map[string]Limited {
	var limited map[string]Limited
	l.endpoints.all(func(ep calc.Endpoint, fresh bool) {
		if ep.Limits == nil {
			return
		}
		if limited == nil {
			limited = map[string]Limited{}
		}
		if _, taken := limited[ep.Interface]; !taken || fresh {
			limited[ep.Interface] = l.limitedEndpoint(ep)
		}
	})
	return limited
}

func (l *Loop) limitedEndpoint(ep calc.Endpoint) Limited {
	return Limited{Interface: ep.Interface, Link: l.links.byName[ep.Interface].Index, Limits: ep.Limits}
}

// splitByLimits are the waiters whose endpoints have no limits to wait for, and the others.
func splitByLimits(waiters []*waiter) (free, limited []*waiter) {
	for _, w := range waiters {
		if w.endpoint.Limits == nil || w.removed {
			free = append(free, w)
		} else {
			limited = append(limited, w)
		}
	}
	return free, limited
}

// concerning is what of an error is about an interface, or about all.
func concerning(err error, iface string) error {
	if err == nil {
		return nil
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range list.Unwrap() {
			errs = append(errs, concerning(e, iface))
		}
		return errors.Join(errs...)
	}
	var of interface {
		error
		OnInterface() string
	}
	if errors.As(err, &of) && of.OnInterface() != iface {
		return nil
	}
	return err
}

// checkLimits names what of an endpoint's limits is not as it should be.
func (l *Loop) checkLimits(ctx context.Context, one Limited) (differences []string, err error) {
	var errs []error
	for _, limits := range l.cfg.Limits {
		wrong, err := limits.Check(ctx, one)
		differences, errs = append(differences, wrong...), append(errs, err)
	}
	return differences, errors.Join(errs...)
}
