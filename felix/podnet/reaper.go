package podnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tortie/internal/kernel"
)

// asidePrefix starts the name of a device that waits for its deletion, followed
// by its index: unique, and not the name of a pod's device.
const asidePrefix = kernel.PodLinkAside

// reaper deletes devices behind the calls. Deleting one costs the kernel about
// 20 ms of waiting, which other changes of devices wait for too, and deleting a
// whole group not more: so devices are put in a group, where they gather for a
// while.
type reaper struct {
	log      *slog.Logger
	group    uint32
	deleter  Reaper // nil: Run opens a Handle
	min, max time.Duration
	pause    time.Duration
	kick     chan struct{}

	reaped, batches, failures atomic.Uint64
}

// ReapStats counts the work of Run since the start.
type ReapStats struct {
	// Devices were found waiting and deleted, in Batches deletions.
	Devices, Batches uint64
	// Failures are attempts that will be repeated.
	Failures uint64
}

func newReaper(cfg Config) *reaper {
	r := &reaper{
		log: cfg.Log, group: cfg.ReapGroup, deleter: cfg.Reaper,
		min: cfg.RetryMin, max: cfg.RetryMax, pause: cfg.ReapPause, kick: make(chan struct{}, 1),
	}
	if r.group == 0 {
		r.group = DefaultReapGroup
	}
	if r.pause <= 0 {
		r.pause = 200 * time.Millisecond
	}
	if r.min <= 0 {
		r.min = 100 * time.Millisecond
	}
	r.max = max(r.max, r.min)
	if cfg.RetryMax == 0 {
		r.max = max(10*time.Second, r.min)
	}
	return r
}

// isOurs reports whether a link is one that was set aside.
func (r *reaper) isOurs(l kernel.Link) bool {
	switch l.Kind {
	case "veth":
		return isAside(l) || l.Group == r.group && IsDeviceName(l.Name)
	case "ifb":
		return isAside(l) || l.Group == r.group && strings.HasPrefix(l.Name, kernel.PodShaper)
	}
	return false
}

// Retire takes a device that shaped a pod's packets out of service and leaves it to Run.
func (n *Net) Retire(l kernel.Link) error { return n.setAside(l) }

func isAside(l kernel.Link) bool {
	digits, ok := strings.CutPrefix(l.Name, asidePrefix)
	return ok && digits == strconv.Itoa(l.Index)
}

// setAside takes a device out of service and leaves it to Run. The order matters
// to a crash in between: a device that is down but has its name is found by the
// dataplane loop, one in the group by the next Run.
func (n *Net) setAside(l kernel.Link) error {
	err := n.host.SetDown(l.Index)
	if err == nil {
		err = cmp.Or(n.host.Apply(
			kernel.LinkGroup{Link: l.Index, Group: n.reap.group},
			kernel.LinkName{Link: l.Index, Name: asidePrefix + strconv.Itoa(l.Index)},
		)...)
	}
	n.reap.wake()
	if errors.Is(err, kernel.ErrNotFound) {
		return nil // its pod's namespace went away meanwhile, and the device with it
	}
	return err
}

func (r *reaper) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// ReapStats counts what Run did.
func (n *Net) ReapStats() ReapStats {
	return ReapStats{
		Devices: n.reap.reaped.Load(), Batches: n.reap.batches.Load(), Failures: n.reap.failures.Load(),
	}
}

// Run deletes the devices that Remove took out of service, beginning with those
// an earlier process left, until ctx ends. What can't be deleted is tried again.
// It returns an error only when it can't begin.
func (n *Net) Run(ctx context.Context) error {
	deleter := n.reap.deleter
	if deleter == nil {
		h, err := n.openHome()
		if err != nil {
			return fmt.Errorf("delete pod devices: %w", err)
		}
		defer h.Close()
		deleter = h
	}
	pause := n.reap.min
	n.reap.wake()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.reap.kick:
		}
		if !sleep(ctx, n.reap.pause) {
			return nil
		}
		err := n.reapOnce(deleter)
		if err == nil {
			pause = n.reap.min
			continue
		}
		n.reap.failures.Add(1)
		n.log.Warn("pod devices not deleted yet", "err", err, "retry-after", pause)
		if !sleep(ctx, pause) {
			return nil
		}
		pause = min(2*pause, n.reap.max)
		n.reap.wake()
	}
}

// openHome opens a second Handle in the node's namespace.
func (n *Net) openHome() (*kernel.Handle, error) {
	ns, err := n.host.Netns()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return ns.Open()
}

// reapOnce deletes every device that waits. A group that also holds a device that
// is not ours is not deleted as a whole: ours are then deleted one by one.
func (n *Net) reapOnce(deleter Reaper) error {
	links, err := n.host.Links()
	if err != nil {
		return err
	}
	var waiting, foreign []kernel.Link
	for _, l := range links {
		switch {
		case n.reap.isOurs(l):
			waiting = append(waiting, l)
		case l.Group == n.reap.group:
			foreign = append(foreign, l)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	if len(foreign) > 0 {
		n.log.Warn("a device that is not a pod's is in the group of devices to be deleted; it is left alone, move it out",
			"iface", foreign[0].Name, "group", n.reap.group)
		return n.reapSingly(waiting)
	}
	for _, l := range waiting {
		if l.Group == n.reap.group {
			continue
		}
		if err := n.host.SetGroup(l.Index, n.reap.group); err != nil && !errors.Is(err, kernel.ErrNotFound) {
			return err
		}
	}
	if err := deleter.DeleteGroup(n.reap.group); err != nil {
		return err
	}
	n.reap.count(len(waiting))
	return nil
}

func (n *Net) reapSingly(waiting []kernel.Link) error {
	var errs []error
	for _, l := range waiting {
		if err := n.host.DeleteLink(l.Index); err != nil {
			errs = append(errs, err)
			continue
		}
		n.reap.count(1)
	}
	return errors.Join(errs...)
}

func (r *reaper) count(devices int) {
	r.reaped.Add(uint64(devices))
	r.batches.Add(1)
}

// sleep waits and reports whether ctx still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
