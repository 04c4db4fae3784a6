// Package podnet wires pods to the node: a veth pair whose one end is born in the
// pod's network namespace, the pod's addresses and routes, the settings of the
// node's end. It writes no route of the node's: that is the dataplane loop's.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"tortie/internal/kernel"
)

// DefaultReapGroup is the link group in which devices wait for their deletion.
const DefaultReapGroup uint32 = 0x746f7274

// The classes of error a caller decides on.
var (
	// ErrInvalid: the attachment can't be as it is asked for.
	ErrInvalid = errors.New("invalid attachment")
	// ErrNoNetns: the path is not, or no longer, a pod's network namespace.
	ErrNoNetns = errors.New("no pod network namespace")
	// ErrInterfaceExists: the pod has an interface, or a default route, of
	// another network already; or the node's name is taken by a foreign device.
	ErrInterfaceExists = errors.New("interface exists already")
)

// NetnsError is an ErrNoNetns that says where, and why.
type NetnsError struct {
	Path string
	Err  error
}

// Error is one line for the operator: what the kernel said, less the operation and the path.
func (e *NetnsError) Error() string {
	cause := e.Err
	if of, ok := errors.AsType[*kernel.Error](cause); ok && of.Err != nil {
		cause = of.Err
	}
	return e.Path + ": " + cause.Error()
}

// Unwrap makes errors.Is see the class, too.
func (e *NetnsError) Unwrap() []error { return []error{ErrNoNetns, e.Err} }

// Kernel is what podnet asks of the kernel in any namespace.
type Kernel interface {
	LinkByName(name string) (kernel.Link, error)
	LinkByIndex(index int) (kernel.Link, error)
	SetDown(index int) error
	SetMTU(index, mtu int) error
	SetMAC(index int, mac kernel.MAC) error
	Apply(...kernel.Change) []error
	SetSysctls([]kernel.Setting) error
}

// Host is what podnet asks of the kernel in the node's namespace; *kernel.Handle
// has it all.
type Host interface {
	Kernel
	Netns() (*kernel.Netns, error)
	CreateVeth(kernel.VethSpec) (kernel.Link, error)
	Configure(kernel.Link, []kernel.Setting) error
	Links() ([]kernel.Link, error)
	Addresses(link int) ([]kernel.Address, error)
	SetGroup(index int, group uint32) error
	DeleteLink(index int) error
	Sysctl(name string) (string, error)
}

// Pod is what podnet asks of the kernel in a pod's namespace; *kernel.Handle has it
// all.
type Pod interface {
	Kernel
	IsUp(name string) (bool, error)
	Addresses(link int) ([]kernel.Address, error)
	DeleteAddress(link int, prefix netip.Prefix) error
	Neighbours(link int) ([]kernel.Neighbour, error)
	Routes(context.Context, kernel.RouteFilter) ([]kernel.Route, error)
	AddRoute(kernel.Route) error
	SwapSysctls([]kernel.Setting) (old []kernel.Setting, err error)
	Close()
}

// Reaper deletes devices by their group.
type Reaper interface {
	DeleteGroup(group uint32) error
}

// Config is what a Net works with.
type Config struct {
	Log    *slog.Logger
	Kernel Host
	// ReapGroup is the link group of devices to be deleted; nothing else on the
	// node may use it. 0 means DefaultReapGroup.
	ReapGroup uint32
	// OpenPod opens a pod's namespace, with the calling thread in it; nil means its own
	// netlink socket there.
	OpenPod func(*kernel.Netns) (Pod, error)
	// Reaper is what Run deletes with. A deletion waits 20 ms and more for the
	// kernel, so it must not share a socket with Kernel. nil means a Handle that
	// Run opens for itself.
	Reaper Reaper
	// ReapPause is how long a device waits for its deletion. Most pods' namespaces
	// end meanwhile and take the device with them, at no cost to the calls that come
	// next. 0 means 200 ms.
	ReapPause time.Duration
	// RetryMin and RetryMax bound the pause after a failed deletion. 0 means
	// 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
}

// Attachment describes one interface of a pod.
type Attachment struct {
	Netns  string // path of the pod's network namespace
	IfName string // name of the interface in the pod
	// HostIf is the node's end: "cali" and 11 hexadecimal digits.
	HostIf string
	MAC    string // of the pod's interface; empty for one the kernel makes
	Addrs  []netip.Addr
	// Late brings the addresses when Addrs is nil: it is called once, when all that
	// can be done without them is done, and before anything of an earlier sandbox
	// is touched. It must return one address at least of each of Families, and of
	// no other.
	Late     func(context.Context) ([]netip.Addr, error)
	Families []kernel.Family
	// Expected tells what Late will probably bring, nil when nobody knows. A new
	// interface gets those addresses while the others are awaited: in the pod alone
	// an address does nothing, for no route leads there. May be nil.
	Expected func() []netip.Addr
	MTU      int // 0 for the kernel's default, 1500
	// NumQueues is the number of transmit and receive queues; 0 is one.
	NumQueues int
	// AllowIPForwarding lets the pod forward packets between its interfaces.
	AllowIPForwarding bool
	// FromLoopback lets the pod be reached from the node's 127.0.0.1, by a port of the node.
	FromLoopback bool
	// ManySources: the pod may send from other addresses than its own, if only some; which
	// is for packet rules to say.
	ManySources bool
}

// Attached is how an Attachment turned out.
type Attached struct {
	HostIndex int
	PodMAC    string
	HostMAC   string
	MTU       int
}

// Device is the node's end of a pod's veth pair.
type Device struct {
	Name  string
	Index int
	Up    bool
}

// Net wires pods. It is safe for concurrent use; calls for one node's end are
// carried out one after another.
type Net struct {
	log     *slog.Logger
	host    Host
	openPod func(*kernel.Netns) (Pod, error)
	home    kernel.NetnsID
	names   locks
	reap    *reaper
	// ipv6 is whether the kernel has IPv6 at all.
	ipv6 bool
}

// New makes a Net. It changes nothing; see [EnsureForwarding] and [Net.Run].
func New(cfg Config) (*Net, error) {
	if cfg.Kernel == nil || cfg.Log == nil {
		return nil, errors.New("pod network: a kernel and a log are required")
	}
	ns, err := cfg.Kernel.Netns()
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	defer ns.Close()
	home, err := ns.ID()
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	n := &Net{log: cfg.Log, host: cfg.Kernel, openPod: cfg.OpenPod, home: home, names: newLocks()}
	if n.openPod == nil {
		n.openPod = func(*kernel.Netns) (Pod, error) { return kernel.Open() }
	}
	n.reap = newReaper(cfg)
	_, err = cfg.Kernel.Sysctl("ipv6/conf/all/disable_ipv6")
	if err != nil && !errors.Is(err, kernel.ErrNotFound) {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	n.ipv6 = err == nil
	return n, nil
}

// Add wires a pod. What it did is undone when it fails.
//
// The node's end may exist already. When its other end is this very interface of
// this very pod, Add completes the wiring and returns it: a repeated ADD is a
// success. Else it is what an earlier sandbox of the same pod left, and is
// removed first: the name belongs to the newer one. When the pod has the
// interface but from somebody else, nothing is changed and the error is an
// ErrInterfaceExists.
func (n *Net) Add(ctx context.Context, a Attachment) (Attached, error) {
	mac, err := a.validate()
	if err != nil {
		return Attached{}, fmt.Errorf("attach pod interface %s: %w", a.IfName, err)
	}
	defer n.names.lock(a.HostIf)()
	w := &wiring{net: n, a: a, mac: mac}
	defer w.close()
	if err := run(ctx, w, steps()); err != nil {
		return Attached{}, fmt.Errorf("attach pod interface %s to %s: %w", a.IfName, a.HostIf, err)
	}
	return Attached{
		HostIndex: w.host.Index, PodMAC: w.pod.MAC.String(), HostMAC: hostMAC().String(), MTU: w.pod.MTU,
	}, nil
}

// Remove takes the node's end of a pod's veth pair out of service: on return no
// packet passes, its routes are gone and its name is free. The device itself is
// deleted behind, by Run. One that is absent is a success.
func (n *Net) Remove(ctx context.Context, hostIf string) error {
	return n.RemoveDevice(ctx, Device{Name: hostIf})
}

// RemoveDevice is Remove for one certain device: when d has an Index, another
// device under its name is left alone.
func (n *Net) RemoveDevice(ctx context.Context, d Device) error {
	if !IsDeviceName(d.Name) {
		return fmt.Errorf("detach pod interface %q: %w: not the name of a pod's device", d.Name, ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("detach pod interface %s: %w", d.Name, err)
	}
	defer n.names.lock(d.Name)()
	link, err := n.host.LinkByName(d.Name)
	if errors.Is(err, kernel.ErrNotFound) || err == nil && d.Index != 0 && link.Index != d.Index {
		return nil
	}
	if err == nil && link.Kind != "veth" {
		err = fmt.Errorf("%w: the device of that name is of kind %q, which is not ours", ErrInterfaceExists, link.Kind)
	}
	if err == nil {
		err = n.setAside(link)
	}
	if err != nil {
		return fmt.Errorf("detach pod interface %s: %w", d.Name, err)
	}
	return nil
}

// Devices lists the node's ends of all pods, less those that wait for their
// deletion.
func (n *Net) Devices(ctx context.Context) ([]Device, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list pod devices: %w", err)
	}
	links, err := n.host.Links()
	if err != nil {
		return nil, fmt.Errorf("list pod devices: %w", err)
	}
	var out []Device
	for _, l := range links {
		if l.Kind == "veth" && l.Group != n.reap.group && IsDeviceName(l.Name) {
			out = append(out, Device{Name: l.Name, Index: l.Index, Up: l.Up})
		}
	}
	return out, nil
}
