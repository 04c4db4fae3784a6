package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/selector"
)

// family is an IP version.
type family int

const (
	ipv4 family = 4
	ipv6 family = 6
)

// String is the name of the version as users write it.
func (f family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// familyOf is the version of a prefix.
func familyOf(prefix netip.Prefix) family {
	return familyOfAddr(prefix.Addr())
}

func familyOfAddr(addr netip.Addr) family {
	if addr.Is4() {
		return ipv4
	}
	return ipv6
}

// pool is an IPPool with its text parsed.
type pool struct {
	name      string
	prefix    netip.Prefix
	blockBits int
	// revision is where the pool was read, 0 when the View doesn't say.
	revision datastore.Revision
	spec     v3.IPPoolSpec
	deleting bool
}

// parsePool reads a pool; the error names what is wrong with it.
func parsePool(obj *v3.IPPool) (pool, error) {
	prefix, err := netip.ParsePrefix(obj.Spec.CIDR)
	if err != nil {
		return pool{}, fmt.Errorf("its cidr %q can't be read", obj.Spec.CIDR)
	}
	p := pool{
		name:      obj.Name,
		prefix:    prefix.Masked(),
		blockBits: obj.Spec.BlockSize,
		spec:      obj.Spec,
		deleting:  obj.DeletionTimestamp != nil,
	}
	if p.blockBits == 0 {
		p.blockBits = prefix.Addr().BitLen() - 6
	}
	if least := prefix.Addr().BitLen() - maxBlockBits; p.blockBits < max(least, prefix.Bits()) || p.blockBits > prefix.Addr().BitLen() {
		return pool{}, fmt.Errorf("its blockSize %d is not within %d to %d", p.blockBits, max(least, prefix.Bits()), prefix.Addr().BitLen())
	}
	if rev, err := strconv.ParseInt(obj.ResourceVersion, 10, 64); err == nil {
		p.revision = datastore.Revision(rev)
	}
	return p, nil
}

// owns reports whether block is one that this pool's allocations are made from.
func (p pool) owns(block netip.Prefix) bool {
	return p.blockBits == block.Bits() && p.prefix.Overlaps(block)
}

// key is the pool's key in the datastore.
func (p pool) key() api.Key { return api.Key{Kind: api.KindIPPool, Name: p.name} }

// Verdict says what became of a pool in the search for an address.
type Verdict struct {
	// Pool is the pool's name, CIDR its range, empty for one that doesn't exist.
	Pool, CIDR string
	// Reason says why no address was taken from it; empty for one that was usable.
	Reason string
}

// String is "pool-v4 (10.65.0.0/16): disabled".
func (v Verdict) String() string {
	name := v.Pool
	if v.CIDR != "" {
		name += " (" + v.CIDR + ")"
	}
	return name + ": " + v.Reason
}

// criteria decide which pools serve a request for addresses of one family.
type criteria struct {
	family    family
	requested []string
	use       v3.IPPoolAllowedUse
	node      string
	labels    map[string]string
	namespace string
	// namespaceLabels are nil when unknown.
	namespaceLabels map[string]string
	avoid           map[netip.Prefix]string
}

// selectPools splits the pools of the family into those that serve, in the order
// requested or else given, and the verdicts on the others.
func selectPools(all []*v3.IPPool, c criteria) (usable []pool, skipped []Verdict) {
	for _, obj := range all {
		p, err := parsePool(obj)
		if err != nil {
			skipped = append(skipped, Verdict{Pool: obj.Name, CIDR: obj.Spec.CIDR, Reason: err.Error()})
			continue
		}
		if familyOf(p.prefix) != c.family {
			continue
		}
		if reason := c.refuse(p); reason != "" {
			skipped = append(skipped, Verdict{Pool: p.name, CIDR: p.prefix.String(), Reason: reason})
			continue
		}
		usable = append(usable, p)
	}
	for _, name := range c.requested {
		if !slices.ContainsFunc(all, func(obj *v3.IPPool) bool { return namesPool(name, obj.Name, obj.Spec.CIDR) }) {
			skipped = append(skipped, Verdict{Pool: name, Reason: "requested, but there is no such pool"})
		}
	}
	slices.SortStableFunc(usable, func(x, y pool) int { return c.rank(x) - c.rank(y) })
	return usable, skipped
}

// rank is the place of a pool in the request.
func (c criteria) rank(p pool) int {
	return slices.IndexFunc(c.requested, func(name string) bool { return namesPool(name, p.name, p.spec.CIDR) })
}

// refuse says why a pool may not serve, or nothing.
func (c criteria) refuse(p pool) string {
	requested := c.rank(p) >= 0
	if len(c.requested) > 0 && !requested {
		return "not among the requested pools " + strings.Join(c.requested, ", ")
	}
	if reason := cmp.Or(p.refuseUse(c.use), c.avoid[p.prefix]); reason != "" {
		return reason
	}
	if !requested && p.spec.AssignmentMode != nil && *p.spec.AssignmentMode == v3.Manual {
		return "assignmentMode is Manual and the request doesn't name it"
	}
	if reason := refuseSelector("nodeSelector", p.spec.NodeSelector, c.labels, "the labels of node "+c.node); reason != "" {
		return reason
	}
	return c.refuseNamespace(p.spec.NamespaceSelector)
}

// deselects reports whether a pool is not for nodes with these labels. One whose
// selector can't be read doesn't say.
func (p pool) deselects(labels map[string]string) bool {
	if selectsAll(p.spec.NodeSelector) {
		return false
	}
	sel, err := selector.Parse(p.spec.NodeSelector)
	return err == nil && !sel.Matches(labels)
}

// refuseUse says why nobody may get addresses of a pool for a use, or nothing.
func (p pool) refuseUse(use v3.IPPoolAllowedUse) string {
	switch {
	case p.spec.Disabled:
		return "disabled"
	case p.deleting:
		return "being deleted"
	case !api.PoolServes(p.spec, use):
		return fmt.Sprintf("allowedUses is %v, not %s", p.spec.AllowedUses, use)
	}
	return ""
}

// refuseNamespace says why the namespace may not use a pool, or nothing.
func (c criteria) refuseNamespace(expr string) string {
	switch {
	case selectsAll(expr):
		return ""
	case c.namespace == "":
		return fmt.Sprintf("namespaceSelector %q, and the request has no namespace", expr)
	case c.namespaceLabels == nil:
		return fmt.Sprintf("namespaceSelector %q, and the labels of namespace %s are not known", expr, c.namespace)
	}
	return refuseSelector("namespaceSelector", expr, c.namespaceLabels, "the labels of namespace "+c.namespace)
}

// allows reports whether a pool is for a use; a pool that doesn't say is for
// workloads and tunnels.
// namesPool reports whether a request's name means a pool: by name, or by CIDR
// in any spelling.
func namesPool(requested, name, cidr string) bool {
	if requested == name {
		return true
	}
	want, err := netip.ParsePrefix(requested)
	if err != nil {
		return false
	}
	have, err := netip.ParsePrefix(cidr)
	return err == nil && want.Masked() == have.Masked()
}

// selectsAll reports whether a selector leaves nothing out.
func selectsAll(expr string) bool {
	expr = strings.TrimSpace(expr)
	return expr == "" || expr == "all()"
}

// refuseSelector says why a selector doesn't match, or nothing.
func refuseSelector(field, expr string, labels map[string]string, whose string) string {
	if selectsAll(expr) {
		return ""
	}
	sel, err := selector.Parse(expr)
	if err != nil {
		return fmt.Sprintf("its %s %q can't be read: %v", field, expr, err)
	}
	if !sel.Matches(labels) {
		return fmt.Sprintf("%s %q doesn't match %s", field, expr, whose)
	}
	return ""
}
