package fakekernel

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

const defaultMTU = 1500

// Links is [kernel.Handle.Links].
func (k *Kernel) Links() (links []kernel.Link, err error) {
	err = k.do("read links", "", func() error {
		for _, l := range k.sortedLinks() {
			links = append(links, *l)
		}
		return nil
	})
	return links, err
}

// LinkByName is [kernel.Handle.LinkByName].
func (k *Kernel) LinkByName(name string) (link kernel.Link, err error) {
	err = k.do("read link", name, func() error {
		l := k.byName(name)
		if l == nil {
			return unix.ENODEV
		}
		link = *l
		return nil
	})
	return link, err
}

// LinkByIndex is [kernel.Handle.LinkByIndex].
func (k *Kernel) LinkByIndex(index int) (link kernel.Link, err error) {
	err = k.change("read link", index, func(l *kernel.Link) error {
		link = *l
		return nil
	})
	return link, err
}

// IsUp is [kernel.Handle.IsUp].
func (k *Kernel) IsUp(name string) (up bool, err error) {
	err = k.do("read flags of link", name, func() error {
		l := k.byName(name)
		if l == nil {
			return unix.ENODEV
		}
		up = l.Up
		return nil
	})
	return up, err
}

// change runs f on a link and tells subscribers when it changed it.
func (k *Kernel) change(op string, index int, f func(*kernel.Link) error) error {
	return k.do(op, strconv.Itoa(index), func() error {
		l := k.links[index]
		if l == nil {
			return unix.ENODEV
		}
		before := *l
		if err := f(l); err != nil {
			return err
		}
		if *l != before {
			k.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *l})
		}
		return nil
	})
}

// SetUp is [kernel.Handle.SetUp].
func (k *Kernel) SetUp(index int) error {
	return k.change("switch on link", index, func(l *kernel.Link) error {
		if l.Up {
			return nil
		}
		l.Up = true
		k.updateRunning(index)
		for _, a := range k.addrs {
			if a.Link == index {
				k.addConnected(a)
			}
		}
		return nil
	})
}

// SetDown is [kernel.Handle.SetDown].
func (k *Kernel) SetDown(index int) error {
	return k.change("switch off link", index, func(l *kernel.Link) error {
		l.Up = false
		k.updateRunning(index)
		k.dropRoutesOver(index)
		k.dropAddresses(func(a kernel.Address) bool {
			return a.Link == index && kernel.FamilyOf(a.Prefix.Addr()) == kernel.IPv6
		})
		return nil
	})
}

// updateRunning: a veth runs when both its ends are up.
func (k *Kernel) updateRunning(index int) {
	l := k.links[index]
	l.Running = l.Up
	p, ok := k.peers[index]
	if !ok {
		return
	}
	far := p.kernel.links[p.index]
	running := l.Up && far.Up
	l.Running = running
	if far.Running != running {
		far.Running = running
		p.kernel.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *far})
	}
}

// SetMTU is [kernel.Handle.SetMTU].
func (k *Kernel) SetMTU(index, mtu int) error {
	return k.change("set MTU of link", index, func(l *kernel.Link) error {
		if mtu < 68 || mtu > 65535 {
			return unix.EINVAL
		}
		l.MTU = mtu
		return nil
	})
}

// SetMAC is [kernel.Handle.SetMAC].
func (k *Kernel) SetMAC(index int, mac kernel.MAC) error {
	return k.change("set MAC address of link", index, func(l *kernel.Link) error {
		if mac[0]&1 != 0 || mac == (kernel.MAC{}) {
			return unix.EADDRNOTAVAIL
		}
		l.MAC = mac
		return nil
	})
}

// SetAlias is [kernel.Handle.SetAlias].
func (k *Kernel) SetAlias(index int, alias string) error {
	return k.change("set alias of link", index, func(l *kernel.Link) error {
		l.Alias = alias
		return nil
	})
}

// SetGroup is [kernel.Handle.SetGroup].
func (k *Kernel) SetGroup(index int, group uint32) error {
	return k.change("set group of link", index, func(l *kernel.Link) error {
		l.Group = group
		return nil
	})
}

// Rename is [kernel.Handle.Rename].
func (k *Kernel) Rename(index int, name string) error {
	return k.change("rename link", index, func(l *kernel.Link) error {
		switch {
		case name == "" || len(name) >= unix.IFNAMSIZ:
			return unix.EINVAL
		case k.byName(name) != nil && k.byName(name) != l:
			return unix.EEXIST
		}
		l.Name = name
		return nil
	})
}

// DeleteLink is [kernel.Handle.DeleteLink].
func (k *Kernel) DeleteLink(index int) error {
	return k.do("delete link", strconv.Itoa(index), func() error {
		switch {
		case index <= 0:
			return kernel.ErrInvalid
		case k.links[index] == nil:
			return nil
		case k.links[index].Kind == "":
			return unix.EOPNOTSUPP
		case index == k.fallback:
			return nil // it stays, and nothing is said of it
		}
		k.destroy(index)
		return nil
	})
}

// DeleteGroup is [kernel.Handle.DeleteGroup].
func (k *Kernel) DeleteGroup(group uint32) error {
	return k.do("delete links of group", strconv.FormatUint(uint64(group), 10), func() error {
		if group == 0 {
			return kernel.ErrInvalid
		}
		var doomed []int
		for _, l := range k.sortedLinks() {
			if l.Group != group {
				continue
			}
			if l.Kind == "" {
				return unix.EOPNOTSUPP
			}
			doomed = append(doomed, l.Index)
		}
		for _, index := range doomed {
			k.destroy(index)
		}
		return nil
	})
}

// destroy removes a link with its addresses, neighbours and routes, and the
// other end of a veth.
func (k *Kernel) destroy(index int) {
	l, ok := k.links[index]
	if !ok {
		return
	}
	far, paired := k.peers[index]
	delete(k.links, index)
	k.dropRoutesOver(index)
	k.dropAddresses(func(a kernel.Address) bool { return a.Link == index })
	k.neighs = slices.DeleteFunc(k.neighs, func(n kernel.Neighbour) bool { return n.Link == index })
	k.fdb = slices.DeleteFunc(k.fdb, func(e kernel.FDBEntry) bool { return e.Link == index })
	delete(k.peers, index)
	delete(k.vxlans, index)
	delete(k.ipips, index)
	k.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *l, Gone: true})
	if paired {
		far.kernel.destroy(far.index)
	}
}

// Destroy is the end of the namespace, as when its last process exits: its links
// go, and with them the other ends of its veths.
func (k *Kernel) Destroy() {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	for _, index := range slices.Sorted(maps.Keys(k.peers)) {
		k.destroy(index)
	}
	for ns, other := range k.machine.namespaces {
		if other == k {
			delete(k.machine.namespaces, ns)
		}
	}
}

// CreateVeth is [kernel.Handle.CreateVeth].
func (k *Kernel) CreateVeth(spec kernel.VethSpec) (host kernel.Link, err error) {
	err = k.do("create veth", spec.Host+" with peer "+spec.Peer, func() error {
		far := k
		if spec.PeerNetns != nil {
			far = k.machine.namespaces[spec.PeerNetns]
		}
		if err := k.checkVeth(spec, far); err != nil {
			return err
		}
		mtu := spec.MTU
		if mtu == 0 {
			mtu = defaultMTU
		}
		near := k.newLink(spec.Host, spec.HostMAC, mtu)
		other := far.newLink(spec.Peer, spec.PeerMAC, mtu)
		near.Group = spec.HostGroup
		near.Up = !spec.HostDown
		near.PeerIndex, other.PeerIndex = other.Index, near.Index
		if far != k {
			near.PeerNetns, other.PeerNetns = 0, 0
		}
		k.peers[near.Index] = peer{kernel: far, index: other.Index}
		far.peers[other.Index] = peer{kernel: k, index: near.Index}
		k.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *near})
		far.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *other})
		host = *near
		return nil
	})
	return host, err
}

func (k *Kernel) checkVeth(spec kernel.VethSpec, far *Kernel) error {
	for _, name := range []string{spec.Host, spec.Peer} {
		if name == "" || len(name) >= unix.IFNAMSIZ {
			return unix.EINVAL
		}
	}
	switch {
	case far == nil:
		return fmt.Errorf("no such namespace: %w", unix.EINVAL)
	case k.byName(spec.Host) != nil || far.byName(spec.Peer) != nil || (far == k && spec.Host == spec.Peer):
		return unix.EEXIST
	case spec.MTU != 0 && (spec.MTU < 68 || spec.MTU > 65535):
		return unix.EINVAL
	}
	return nil
}

func (k *Kernel) newLink(name string, mac kernel.MAC, mtu int) *kernel.Link {
	k.machine.lastIndex++
	if mac == (kernel.MAC{}) {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(name), uint32(k.machine.lastIndex)))
		mac = kernel.MAC(sum[:6])
		mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	}
	l := &kernel.Link{
		Index: k.machine.lastIndex, Name: name, Kind: "veth", MTU: mtu, MAC: mac, PeerNetns: -1,
	}
	k.links[l.Index] = l
	return l
}
