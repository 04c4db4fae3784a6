// Package fakekernel is a kernel for tests that behaves, for links, addresses,
// neighbours, routes and sysctls, as package kernel's Handle on a real one: the
// same rules, the same classes of errors. It needs no privileges.
//
// What it leaves out: the local table, IPv6 link-local addresses that appear by
// themselves, packets.
package fakekernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// Kernel is one network namespace of a fake machine. Its methods have the
// meaning of those of [kernel.Handle] and may be called from any goroutine.
type Kernel struct {
	machine *machine
	links   map[int]*kernel.Link
	peers   map[int]peer // the other end of each veth
	addrs   []kernel.Address
	neighs  []kernel.Neighbour
	vxlans  map[int]kernel.Vxlan
	fdb     []kernel.FDBEntry
	ipips   map[int]kernel.IPIP
	// fallback is the device of IPIP that a namespace is born with, or gets when the
	// module is loaded; 0 for none. noIPIP: there is no such module.
	fallback int
	noIPIP   bool
	routes   []kernel.Route // one place, one route; see place
	// nextHops are the next-hop objects by number, in their normal form.
	nextHops   map[int]kernel.NextHopObject
	noNextHops bool
	sysctls    map[string]string
	fault      func(Op) error
	subs       map[*subscriber]struct{}
}

// machine is what the namespaces have in common. Its lock guards them all,
// because a veth spans two.
type machine struct {
	mu         sync.Mutex
	lastIndex  int
	namespaces map[*kernel.Netns]*Kernel
}

// peer is the far end of a veth.
type peer struct {
	kernel *Kernel
	index  int
}

// Op is one call of a fake kernel.
type Op struct {
	Name   string // "add route", as an error of the real kernel begins
	Object string // "10.65.0.0/26 via …"
}

// New makes a machine with one namespace, in which there is only the loopback,
// up, with index 1.
func New() *Kernel {
	m := &machine{lastIndex: 1, namespaces: map[*kernel.Netns]*Kernel{}}
	return m.newNamespace()
}

func (m *machine) newNamespace() *Kernel {
	return &Kernel{
		machine: m,
		links: map[int]*kernel.Link{
			1: {Index: 1, Name: "lo", MTU: 65536, Up: true, Running: true, PeerNetns: -1},
		},
		peers:    map[int]peer{},
		vxlans:   map[int]kernel.Vxlan{},
		ipips:    map[int]kernel.IPIP{},
		sysctls:  map[string]string{},
		nextHops: map[int]kernel.NextHopObject{},
		subs:     map[*subscriber]struct{}{},
	}
}

// NewNetns adds a namespace to the machine. The Netns stands for it in a
// [kernel.VethSpec]; nothing else can be done with it.
func (k *Kernel) NewNetns() (*kernel.Netns, *Kernel) {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	ns, other := new(kernel.Netns), k.machine.newNamespace()
	k.machine.namespaces[ns] = other
	return ns, other
}

// SetFault has every operation ask f first; an error that f gives is the
// operation's answer and nothing else happens. Nil ends the faults.
func (k *Kernel) SetFault(f func(Op) error) {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	k.fault = f
}

// FailNth has the nth operation from now whose name begins with prefix fail; 1
// is the next.
func (k *Kernel) FailNth(n int, prefix string, err error) {
	k.SetFault(func(op Op) error {
		if !strings.HasPrefix(op.Name, prefix) {
			return nil
		}
		n--
		if n != 0 {
			return nil
		}
		return err
	})
}

// InterruptDumps has the next n reads of routes fail as one that the kernel
// interrupted too often.
func (k *Kernel) InterruptDumps(n int) {
	k.SetFault(func(op Op) error {
		if op.Name != "read routes" || n <= 0 {
			return nil
		}
		n--
		return kernel.ErrDumpInterrupted
	})
}

// do runs one operation under the lock, after its fault.
func (k *Kernel) do(name, object string, f func() error) error {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	if k.fault != nil {
		if err := k.fault(Op{Name: name, Object: object}); err != nil {
			return kernel.NewError(name, object, err)
		}
	}
	return kernel.NewError(name, object, f())
}

// Close does nothing.
func (k *Kernel) Close() {}

// Sysctl is [kernel.Handle.Sysctl]. Every well-formed name exists and is "0"
// until it is set.
func (k *Kernel) Sysctl(name string) (value string, err error) {
	err = k.do("read sysctl", "net/"+name, func() error {
		value = k.sysctl(name)
		return k.sysctlLink(name)
	})
	return value, err
}

// SetSysctl is [kernel.Handle.SetSysctl].
func (k *Kernel) SetSysctl(name, value string) error {
	return k.SetSysctls([]kernel.Setting{{Name: name, Value: value}})
}

// SetSysctls is [kernel.Handle.SetSysctls].
func (k *Kernel) SetSysctls(settings []kernel.Setting) error {
	_, err := k.SwapSysctls(settings)
	return err
}

// SwapSysctls is [kernel.Handle.SwapSysctls].
func (k *Kernel) SwapSysctls(settings []kernel.Setting) (old []kernel.Setting, err error) {
	for _, s := range settings {
		err := k.do("set sysctl", "net/"+s.Name+"="+s.Value, func() error {
			if err := k.sysctlLink(s.Name); err != nil {
				return err
			}
			if was := k.sysctl(s.Name); was != s.Value {
				old = append(old, kernel.Setting{Name: s.Name, Value: was})
			}
			k.sysctls[s.Name] = s.Value
			return nil
		})
		if err != nil {
			return old, err
		}
	}
	return old, nil
}

func (k *Kernel) sysctl(name string) string {
	if v, ok := k.sysctls[name]; ok {
		return v
	}
	return "0"
}

// Configure is [kernel.Handle.Configure].
func (k *Kernel) Configure(_ kernel.Link, settings []kernel.Setting) error {
	return k.SetSysctls(settings)
}

// Apply is [kernel.Handle.Apply].
func (k *Kernel) Apply(changes ...kernel.Change) []error {
	var errs []error
	for _, c := range changes {
		errs = append(errs, k.apply(c))
	}
	return errs
}

func (k *Kernel) apply(c kernel.Change) error {
	switch c := c.(type) {
	case kernel.LinkUp:
		return k.SetUp(c.Link)
	case kernel.LinkGroup:
		return k.SetGroup(c.Link, c.Group)
	case kernel.LinkName:
		return k.Rename(c.Link, c.Name)
	case kernel.LinkAddress:
		return k.addAddress(c)
	case kernel.Neighbour:
		return k.SetNeighbour(c)
	case kernel.FDBEntry:
		return k.SetFDB(c)
	case kernel.RouteChange:
		return k.ChangeRoutes([]kernel.RouteChange{c})[0]
	case kernel.NextHopChange:
		return k.changeNextHop(c)
	}
	op, object := c.Subject()
	return kernel.NewError(op, object, kernel.ErrInvalid)
}

// sysctlLink refuses the settings of a link that is not there.
func (k *Kernel) sysctlLink(name string) error {
	part := strings.Split(name, "/")
	if len(part) < 2 {
		return fmt.Errorf("the name is not a path below /proc/sys/net: %w", kernel.ErrInvalid)
	}
	if part[1] != "conf" && part[1] != "neigh" || len(part) < 4 || part[2] == "all" || part[2] == "default" {
		return nil
	}
	if k.byName(part[2]) == nil {
		return unix.ENOENT
	}
	return nil
}

func (k *Kernel) byName(name string) *kernel.Link {
	for _, l := range k.links {
		if l.Name == name {
			return l
		}
	}
	return nil
}

func (k *Kernel) sortedLinks() []*kernel.Link {
	return slices.SortedFunc(maps.Values(k.links), func(a, b *kernel.Link) int { return a.Index - b.Index })
}
