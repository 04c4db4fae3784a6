// Package hostports leads connections to ports of the node to pods on it (hostPort):
// what the reference plugin portmap does, by rules that are the same for every pod and
// maps that hold the ports, in the nftables table "inet tortie".
//
// Connections from everywhere to an address of the node are led on, also from the node
// itself, from other pods on it and from the pod to itself. The pod sees who asks,
// except where the answer would not find its way: a pod that asks itself, and the
// node's 127.0.0.1.
package hostports

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"tortie/felix/ruleset"
)

// Mapping leads from a port of the node to a pod's.
type Mapping struct {
	Protocol string // "tcp", "udp" or "sctp"
	// HostIP is the only address of the node that is meant; invalid for all.
	HostIP   netip.Addr
	HostPort uint16
	Pod      netip.Addr
	Port     uint16
}

// Config is what Ports needs.
type Config struct {
	// NFT is the table; nil for the real one of the network namespace that
	// Apply is called in, through the nft command.
	NFT knftables.Interface
	// Forget ends what the kernel remembers of datagrams (UDP) to a port of the node:
	// they would be led for ever where they were led to before.
	Forget func(port uint16) error
	Log    *slog.Logger // nil for no log
}

// Ports are the host ports of this node. Its methods may be called from any
// goroutine.
type Ports struct {
	log    *slog.Logger
	forget func(uint16) error
	rules  *ruleset.Owner

	// applying keeps the order of Applies and of what follows from them.
	applying sync.Mutex

	mu     sync.Mutex
	inSync bool
	owners []owned // the oldest first
	stale  map[uint16]bool
}

// owned are the mappings of one attachment.
type owned struct {
	owner    string
	mappings []Mapping
}

// New makes Ports without any. Nothing is read or written before the first Apply.
func New(cfg Config) *Ports {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Ports{
		log: cfg.Log, forget: cfg.Forget, stale: map[uint16]bool{},
		rules: ruleset.New(cfg.NFT, shape(), ", or remove hostPort from the pods"),
	}
}

// Set declares the mappings of an owner, instead of those it had. Where two owners
// have the same port, the one that is set last has it.
func (p *Ports) Set(owner string, mappings []Mapping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(owner)
	p.owners = append(p.owners, owned{owner, slices.Clone(mappings)})
	p.declare(mappings)
}

// Remove takes an owner's mappings away; there being none is fine.
func (p *Ports) Remove(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.declare(p.drop(owner))
}

func (p *Ports) drop(owner string) (had []Mapping) {
	p.owners = slices.DeleteFunc(p.owners, func(o owned) bool {
		if o.owner == owner {
			had = o.mappings
		}
		return o.owner == owner
	})
	return had
}

// declare hands on what is desired now, and notes which datagrams go elsewhere from
// here on.
func (p *Ports) declare(changed []Mapping) {
	for _, m := range changed {
		if m.Protocol == udp {
			p.stale[m.HostPort] = true
		}
	}
	p.rules.Set(contentsOf(p.owners))
}

// Takes names the owner that has a port of a mapping already, if there is one.
func (p *Ports) Takes(owner string, m Mapping) (other string, taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range slices.Backward(p.owners) {
		if o.owner != owner && slices.ContainsFunc(o.mappings, func(have Mapping) bool { return have.key() == m.key() }) {
			return o.owner, true
		}
	}
	return "", false
}

// key is what two mappings can't share.
func (m Mapping) key() string {
	return fmt.Sprint(m.Protocol, m.HostIP, m.HostPort, m.Pod.Is4())
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (p *Ports) QueueResync() { p.rules.QueueResync() }

// InSync says that the ports of all pods that run have been declared. Before, Apply
// leaves the kernel alone: an earlier process may have left the ports of pods that
// nobody has spoken of yet.
func (p *Ports) InSync() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inSync = true
}

// Apply makes the kernel's rules as declared; see [ruleset.Owner.Apply].
// ruleset.ErrNoNft when there are ports and nft is missing.
func (p *Ports) Apply(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	p.mu.Lock()
	if !p.inSync {
		p.mu.Unlock()
		return nil
	}
	stale := p.stale
	p.stale = map[uint16]bool{}
	p.mu.Unlock()
	out, err := p.rules.Apply(ctx)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		for port := range stale {
			p.stale[port] = true
		}
		return fmt.Errorf("lead ports of the node to pods: %w", err)
	}
	if len(out.Differed) > 0 && !out.Changed && !out.First {
		p.log.Warn("host ports mended: someone had changed their rules", "differed", out.Differed)
	}
	p.forgetAll(stale)
	return nil
}

// forgetAll does without what fails: only who went on asking from one and the same
// port is concerned.
func (p *Ports) forgetAll(stale map[uint16]bool) {
	for port := range stale {
		if p.forget == nil {
			continue
		}
		if err := p.forget(port); err != nil {
			p.log.Warn("datagrams of who asked before may go to the pod that had this port of the node", "port", port, "err", err)
		}
	}
}

// Check names what of the rules and ports in the kernel is not as declared.
func (p *Ports) Check(ctx context.Context) (differences []string, err error) {
	p.applying.Lock()
	defer p.applying.Unlock()
	return p.rules.Check(ctx, "host ports")
}

const udp = "udp"

// number is the protocol's (RFC 5237).
func number(protocol string) int {
	switch protocol {
	case udp:
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

// contentsOf is nil without mappings. Later owners come before earlier ones.
func contentsOf(owners []owned) ruleset.Contents {
	elements := map[string]map[string]string{}
	put := func(set, key, value string) {
		if elements[set] == nil {
			elements[set] = map[string]string{}
		}
		elements[set][key] = value
	}
	for _, o := range owners {
		for _, m := range o.mappings {
			v := versionOf(m.Pod)
			key, set := fmt.Sprintf("%d . %d", number(m.Protocol), m.HostPort), v.Name(anyAddress)
			if m.HostIP.IsValid() {
				key, set = m.HostIP.String()+" . "+key, v.Name(oneAddress)
			}
			put(set, key, fmt.Sprintf("%s . %d", m.Pod, m.Port))
			put(v.Name(selves), m.Pod.String()+" . "+m.Pod.String(), "")
		}
	}
	if len(elements) == 0 {
		return nil
	}
	c := ruleset.Contents{}
	for set, values := range elements {
		for key, value := range values {
			if value != "" {
				key += " : " + value
			}
			c[set] = append(c[set], key)
		}
		slices.SortFunc(c[set], cmp.Compare[string])
	}
	return c
}
