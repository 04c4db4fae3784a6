// Package ruleset reconciles one owner's share of an nftables table: chains with
// fixed rules, and the elements of the sets and maps that the rules use. Several
// owners share a table; each knows its objects by their names and touches no others.
package ruleset

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/knftables"
)

// The table of all of felix' owners.
const (
	Family = knftables.InetFamily
	Table  = "tortie"
)

// ErrNoNft says that the nft command, or the kernel's side of it, is missing.
var ErrNoNft = errors.New("nftables is not available")

// Shape is what an owner's share consists of, whenever there is something in it.
type Shape struct {
	Sets   []Set
	Chains []Chain
	// Prefix begins the names of chains that come and go, which maps lead to; see
	// [Owner.SetWith]. Empty: there are none.
	Prefix string
}

// with is the shape with chains that come and go.
func (s Shape) with(chains []Chain) Shape {
	s.Chains = slices.Concat(s.Chains, chains)
	return s
}

// Set is a set, or a map when Map is true.
type Set struct {
	Name string
	// Type is nft's: "ipv4_addr", or for a map "inet_proto . inet_service : ipv4_addr".
	Type string
	Map  bool
	// Intervals: elements are prefixes, which must not overlap; of a concatenation that
	// is the last part, and a single address stands without a length.
	Intervals bool
}

// Chain is a chain; a base chain when Type is not empty.
type Chain struct {
	Name     string
	Type     knftables.BaseChainType
	Hook     knftables.BaseChainHook
	Priority knftables.BaseChainPriority
	Rules    []Rule
}

// Rule is one of a chain, and what it does in words.
type Rule struct{ Text, Does string }

// Contents are the elements of every set by its name, sorted, in nft's notation:
// "10.0.0.0/8", or in a map "6 . 80 : 10.0.0.1 . 8080", protocols by their number. Nil: nothing of the share is
// to be in the table, neither chains nor sets.
type Contents map[string][]string

// Outcome is what an Apply found.
type Outcome struct {
	// First: nothing had been made to stand before by this Owner.
	First bool
	// Changed: the contents, or the rules, are others than those last made to stand.
	Changed bool
	// Differed names what in the kernel was not as wanted.
	Differed []string
	// Contents are what stands there now; nobody changes them.
	Contents Contents
}

// Owner reconciles its share. Its methods may be called from any goroutine; while
// Apply runs the others wait.
type Owner struct {
	shape  Shape
	advice string
	family knftables.Family

	mu      sync.Mutex
	nft     knftables.Interface // nil until the nft command was needed
	desired Contents
	chains  []Chain // that come and go
	// applied is what was last made to stand in the kernel, with appliedChains; begun is
	// false before the first time.
	applied       Contents
	appliedChains []Chain
	begun         bool
	// known: applied is what the kernel has, as far as nobody else changed it. It
	// is not after a failure, and when a resync is asked for.
	known bool
	// reshaped: the shape is another than that last made to stand, which is standing.
	reshaped bool
	standing Shape
	// failed: the last Apply did not make stand what was desired.
	failed bool
}

// New makes an Owner of nothing yet. Nothing is read or written before the first
// Apply. nft is nil for the real one of the network namespace that Apply is called in,
// through the nft command; advice says what to do where that is missing.
func New(nft knftables.Interface, shape Shape, advice string) *Owner {
	return &Owner{nft: nft, family: Family, shape: shape, advice: advice}
}

// NewARP is New for the table of that name that packets of ARP pass.
func NewARP(nft knftables.Interface, shape Shape, advice string) *Owner {
	o := New(nft, shape, advice)
	o.family = knftables.ARPFamily
	return o
}

// Set makes c the desired contents. The Owner keeps c.
func (o *Owner) Set(c Contents) { o.SetWith(c, nil) }

// SetWith is Set with chains beside those that are always there: their names begin with
// the shape's Prefix, and they have no hook. A chain whose rules stay the same is not
// written again, so that what its rules count is kept. The Owner keeps chains.
func (o *Owner) SetWith(c Contents, chains []Chain) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.desired, o.chains = c, chains
}

// Reshape is Set for an owner whose rules follow its settings. The names of the objects
// must be the same in all of its shapes.
func (o *Owner) Reshape(s Shape, c Contents) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.desired = c
	if !reflect.DeepEqual(o.shape, s) {
		o.shape, o.known, o.reshaped = s, false, true
	}
}

// QueueResync makes the next Apply read the kernel, and mend what differs.
func (o *Owner) QueueResync() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known = false
}

// InSync reports that the kernel has what is desired, as far as is known.
func (o *Owner) InSync() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.inSync()
}

func (o *Owner) inSync() bool { return o.known && !o.differs() }

// differs reports that something else is desired than what was last made to stand.
func (o *Owner) differs() bool {
	return !o.applied.equal(o.desired) || !slices.EqualFunc(o.chains, o.appliedChains, Chain.equal)
}

// Apply makes the kernel's rules as desired, in one transaction: every packet
// meets the old rules or the new ones. What is right is not written again, also
// after a restart or resync. An error leaves the old rules in force and the next
// Apply starts from reading the kernel. ErrNoNft when something is desired and nft
// is missing.
func (o *Owner) Apply(ctx context.Context) (Outcome, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inSync() {
		return Outcome{}, nil
	}
	differed, err := o.apply(ctx, o.desired, o.chains)
	o.failed = err != nil
	if err != nil {
		o.known = false
		return Outcome{}, err
	}
	out := Outcome{First: !o.begun, Changed: o.begun && (o.reshaped && len(differed) > 0 || o.differs()), Differed: differed, Contents: o.desired}
	o.applied, o.appliedChains, o.begun, o.known = o.desired, o.chains, true, true
	o.standing, o.reshaped = o.shape, false
	return out, nil
}

// Cleanup removes the share, and the table when nothing else is in it. What is
// desired stays and is written again by the next Apply.
func (o *Owner) Cleanup(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known = false
	if _, err := o.apply(ctx, nil, nil); err != nil {
		return err
	}
	o.applied, o.appliedChains = nil, nil
	return nil
}

// Check is Differences in words that begin with what the rules are for: one line, or none.
func (o *Owner) Check(ctx context.Context, what string) ([]string, error) {
	differences, err := o.Differences(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the rules for %s: %w", what, err)
	}
	if len(differences) == 0 {
		return nil, nil
	}
	return []string{fmt.Sprintf("the rules for %s are not as they should be: %s", what, strings.Join(differences, ", "))}, nil
}

// Differences reads the kernel and names what is not as it was last made to stand, or,
// where that has failed or was not tried yet, as desired. What is desired since is work
// that an Apply is about to do.
func (o *Owner) Differences(ctx context.Context) ([]string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	shape, want := o.shape.with(o.chains), o.desired
	if o.begun && !o.failed {
		shape, want = o.standing.with(o.appliedChains), o.applied
	}
	if err := o.open(); err != nil {
		if want == nil && errors.Is(err, ErrNoNft) {
			return nil, nil
		}
		return nil, err
	}
	there, err := o.read(ctx)
	if err != nil {
		return nil, err
	}
	return shape.differences(there, want), nil
}

// apply brings the kernel to want and returns what differed there.
func (o *Owner) apply(ctx context.Context, want Contents, chains []Chain) (differed []string, err error) {
	if err := o.open(); err != nil {
		if want == nil && errors.Is(err, ErrNoNft) {
			return nil, nil // then there is nothing of ours to remove
		}
		return nil, err
	}
	tx := o.nft.NewTransaction()
	if want != nil && o.applied != nil && o.known {
		differed = o.change(tx, want, chains)
	} else {
		there, err := o.read(ctx)
		if err != nil {
			return nil, err
		}
		shape := o.shape.with(chains)
		if differed = shape.differences(there, want); len(differed) > 0 {
			shape.rebuild(tx, there, want)
		}
	}
	if tx.NumOperations() == 0 {
		return nil, nil
	}
	return differed, o.nft.Run(ctx, tx)
}

// change is from what was last made to stand to want: chains before the elements that
// lead to them, and the other way round when they go.
func (o *Owner) change(tx *knftables.Transaction, want Contents, chains []Chain) (differed []string) {
	for _, c := range chains {
		i := slices.IndexFunc(o.appliedChains, func(was Chain) bool { return was.Name == c.Name })
		if i >= 0 && o.appliedChains[i].equal(c) {
			continue
		}
		differed = append(differed, "chain "+c.Name)
		tx.Add(&knftables.Chain{Name: c.Name})
		tx.Flush(&knftables.Chain{Name: c.Name})
		c.write(tx)
	}
	for _, s := range o.shape.Sets {
		if s.change(tx, o.applied[s.Name], want[s.Name]) {
			differed = append(differed, s.what())
		}
	}
	for _, was := range o.appliedChains {
		if !slices.ContainsFunc(chains, func(c Chain) bool { return c.Name == was.Name }) {
			differed = append(differed, "chain "+was.Name)
			tx.Flush(&knftables.Chain{Name: was.Name})
			tx.Delete(&knftables.Chain{Name: was.Name})
		}
	}
	return differed
}

// open finds the nft command when it is first needed.
func (o *Owner) open() error {
	if o.nft != nil {
		return nil
	}
	nft, err := newOneRead(o.family)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: install the nft command (apt-get install nftables, dnf install nftables)%s: %w", ErrNoNft, o.advice, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoNft, err)
	}
	o.nft = nft
	return nil
}

func (c Contents) equal(o Contents) bool {
	if (c == nil) != (o == nil) {
		return false
	}
	for name, elements := range c {
		if !slices.Equal(elements, o[name]) {
			return false
		}
	}
	for name, elements := range o {
		if len(elements) != len(c[name]) {
			return false
		}
	}
	return true
}
