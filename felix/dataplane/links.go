package dataplane

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"tortie/felix/calc"
	"tortie/internal/kernel"
)

// hints are what the next turn should look at again. An event is only ever a
// hint: what it says may be older than what the Loop has read since, so the kernel
// is read and the event's content is not believed.
type hints struct {
	links    map[string]int   // by name; the index of those known to be up, else 0
	flapped  map[int]struct{} // by index: went down, and perhaps up again
	allLinks bool
	resync   bool // routes and rules too
	rules    bool // the rules alone
	shapers  bool // a device that shapes is gone or down
}

func newHints() hints {
	return hints{links: map[string]int{}, flapped: map[int]struct{}{}}
}

// link has a device looked at.
func (h *hints) link(name string) { h.links[name] = 0 }

// up spares the look at a device that somebody has just switched on; news of it
// that come later have it looked at all the same.
func (h *hints) up(name string, index int) { h.links[name] = index }

// knownLink is what an event about a device is judged by.
type knownLink struct {
	name string
	// since is when it was first seen; upSince is when it was first seen up, zero when it is
	// down.
	since, upSince time.Time
	mac            kernel.MAC
	mtu            int
}

// flapAge is for how long a device must have been seen up before the news that it
// is down means more than an echo of its making.
const flapAge = time.Second

// links are the pods' devices as last read.
type links struct {
	byName map[string]kernel.Link
	read   bool // all of them, once
}

func newLinks() links { return links{byName: map[string]kernel.Link{}} }

// up is the index of a device, and false when there is none or it is down.
func (l *links) up(name string) (int, bool) {
	link, ok := l.byName[name]
	return link.Index, ok && link.Up
}

// refreshLinks reads the devices that are in doubt, and tells the route table of
// those that changed: the kernel drops the routes of one that goes down without a
// word.
func (l *Loop) refreshLinks(h *hints) error {
	before := maps.Clone(l.links.byName)
	err := l.readLinks(h)
	if err != nil {
		// What could not be read stays in doubt.
		l.mu.Lock()
		l.hints.allLinks = true
		l.mu.Unlock()
	}
	for name, now := range l.links.byName {
		old, ok := before[name]
		_, flapped := h.flapped[now.Index]
		if !ok || old.Index != now.Index || old.Up != now.Up || flapped {
			l.cfg.Routes.LinkChanged(now.Index)
		}
	}
	l.remember()
	return err
}

// remember keeps for the judging of events what has been read.
func (l *Loop) remember() {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[int]knownLink, len(l.links.byName))
	now := time.Now()
	for name, link := range l.links.byName {
		before := l.known[link.Index]
		k := knownLink{name: name, since: cmp.Or(before.since, now), mac: link.MAC, mtu: link.MTU}
		if link.Up {
			k.upSince = cmp.Or(before.upSince, now)
		}
		known[link.Index] = k
	}
	l.known = known
}

// readMany is the number of devices from which on all are read at once.
const readMany = 64

func (l *Loop) readLinks(h *hints) error {
	if !l.links.read || h.allLinks || h.resync || len(h.links) > readMany {
		all, err := l.cfg.Kernel.Links()
		if err != nil {
			return err
		}
		clear(l.links.byName)
		for _, link := range all {
			if strings.HasPrefix(link.Name, calc.InterfacePrefix) {
				l.links.byName[link.Name] = link
			}
		}
		l.links.read = true
		return nil
	}
	for name, index := range h.links {
		if index != 0 {
			l.links.byName[name] = kernel.Link{Name: name, Index: index, Up: true}
			continue
		}
		link, err := l.cfg.Kernel.LinkByName(name)
		switch {
		case errors.Is(err, kernel.ErrNotFound):
			delete(l.links.byName, name)
		case err != nil:
			return err
		default:
			l.links.byName[name] = link
		}
	}
	return nil
}

const (
	topics = kernel.LinkEvents | kernel.AddressEvents | kernel.RouteEvents
	// resubscribePause is the pause after the kernel ended a subscription.
	resubscribePause = time.Second
	// foreignPause is the least time between two resyncs that route events ask
	// for: somebody else who keeps rewriting our routes shall not keep us busy.
	foreignPause = time.Second
)

func (l *Loop) subscribe(ctx context.Context) (<-chan kernel.Event, error) {
	return l.cfg.Kernel.Subscribe(ctx, topics)
}

// watch turns the kernel's events into hints, and subscribes again should the
// kernel end the subscription.
func (l *Loop) watch(ctx context.Context, events <-chan kernel.Event) {
	for {
		for ev := range events {
			if l.heed(ev) {
				l.wakeSoon()
			}
		}
		for {
			if !pause(ctx, resubscribePause) {
				return
			}
			again, err := l.subscribe(ctx)
			if err == nil {
				events = again
				break
			}
			l.log.Warn("kernel events are not received; the periodic resync goes on", "err", err)
		}
		l.mu.Lock()
		l.hints.resync = true
		l.mu.Unlock()
		l.wake()
	}
}

// heed notes what an event hints at and reports whether it is worth a turn.
func (l *Loop) heed(ev kernel.Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch ev := ev.(type) {
	case kernel.Resync:
		l.hints.resync = true
		return true
	case kernel.LinkEvent:
		return l.heedLink(ev)
	case kernel.AddressEvent:
		return l.heedAddress(ev)
	case kernel.RouteEvent:
		return l.heedSuccessor(ev) || l.isForeign(ev) && l.heedForeign()
	}
	return false
}

// heedForeign asks for a resync now, or when foreignPause is over.
func (l *Loop) heedForeign() bool {
	now := time.Now()
	if wait := l.foreignAt.Add(foreignPause).Sub(now); wait > 0 {
		if !l.foreignDue {
			l.foreignDue = true
			time.AfterFunc(wait, l.foreignResync)
		}
		return false
	}
	l.foreignAt, l.hints.resync = now, true
	return true
}

func (l *Loop) foreignResync() {
	l.mu.Lock()
	l.foreignDue, l.foreignAt, l.hints.resync = false, time.Now(), true
	l.mu.Unlock()
	l.wake()
}

// heedLink: a device that was renamed is no longer there under its old name, which
// the event does not say.
func (l *Loop) heedLink(ev kernel.LinkEvent) bool {
	link := ev.Link
	known, ours := l.known[link.Index]
	if ours {
		l.hints.link(known.name)
		if !link.Up && !known.upSince.IsZero() && time.Since(known.upSince) > flapAge {
			l.hints.flapped[link.Index] = struct{}{}
		}
		if !ev.Gone && link.Name == known.name && (!link.Up || link.MAC != known.mac || link.MTU != known.mtu) {
			l.suspect(known)
		}
	}
	if strings.HasPrefix(link.Name, kernel.PodShaper) {
		return l.heedShaper(ev)
	}
	if !strings.HasPrefix(link.Name, calc.InterfacePrefix) {
		return ours || l.heedRemoteLink(link)
	}
	l.hints.link(link.Name)
	// The device of an ADD under way is worth no turn of its own: the ADD asks for
	// one when it is done.
	return ours || l.endpoints.want(link.Name)
}

// suspect is called with the lock held: somebody may have changed a pod's device. What is
// told while it is made, or taken away, is nobody's doing.
func (l *Loop) suspect(k knownLink) {
	if l.cfg.Suspect != nil && time.Since(k.since) > flapAge && l.endpoints.want(k.name) {
		l.cfg.Suspect(k.name)
	}
}

// heedAddress is called with the lock held: a tunnel's device has the address that the
// State says, and no other but that of the link; a pod's device that loses one has lost the
// gateway's. The echo of our own writes is none of these.
func (l *Loop) heedAddress(ev kernel.AddressEvent) bool {
	a := ev.Address.Prefix.Addr()
	if known, ours := l.known[ev.Address.Link]; ours {
		if ev.Gone && a.IsLinkLocalUnicast() {
			l.suspect(known)
		}
		return false
	}
	if !l.tunnelLinks[ev.Address.Link] || a.IsLinkLocalUnicast() {
		return false
	}
	return ev.Gone == slices.Contains(l.tunnelAddrs(), a) && l.heedForeign()
}

// heedShaper: what a pod sends is lost while the device is gone that it is led through.
func (l *Loop) heedShaper(ev kernel.LinkEvent) bool {
	gone := ev.Gone || !ev.Link.Up
	l.hints.shapers = l.hints.shapers || gone
	return gone
}

// isForeign reports whether somebody else changed a route of ours: it is gone
// though it should be, or of our protocol though it should not be. The echo of our
// own writes is neither, but for one that was overtaken.
func (l *Loop) isForeign(ev kernel.RouteEvent) bool {
	r := ev.Route
	if r.Protocol != kernel.ProtocolFelix || r.Table != kernel.TableMain || !l.inSync {
		return false
	}
	want, wanted := l.remotes.declared[r.Dst]
	if own, is := l.desired[r.Dst]; is {
		want, wanted = own.route, true
	}
	if ev.Gone {
		return wanted && want == r
	}
	return !wanted || want != r
}

// pause waits and reports whether ctx still holds.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
