package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPAMLoan says that a node may hold addresses of a block that isn't its own. Upstream
// has nothing like it. Which addresses these are is in the block, and there alone: a loan
// only spares a node to look for them in all blocks of the cluster.
type IPAMLoan struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              IPAMLoanSpec `json:"spec"`
}

// IPAMLoanSpec says in plain words what the name says too.
type IPAMLoanSpec struct {
	Node string `json:"node"`
	CIDR string `json:"cidr"`
}

// NewLoan is the loan of a node from a block.
func NewLoan(node string, block netip.Prefix) *IPAMLoan {
	key := LoanKey(node, block)
	return &IPAMLoan{
		TypeMeta:   metav1.TypeMeta{Kind: string(key.Kind), APIVersion: GroupVersion},
		ObjectMeta: metav1.ObjectMeta{Name: key.Name},
		Spec:       IPAMLoanSpec{Node: node, CIDR: block.String()},
	}
}

// LoanKey is the key of a node's loan from a block.
func LoanKey(node string, block netip.Prefix) Key {
	return Key{Kind: KindIPAMLoan, Name: LoanPrefix(node) + block.Addr().String() + "-" + strconv.Itoa(block.Bits())}
}

// LoanPrefix is what the names of all loans of a node, and of no other, start with.
func LoanPrefix(node string) string { return node + "/" }

// ParseLoanName is the inverse of LoanKey.
func ParseLoanName(name string) (node string, block netip.Prefix, err error) {
	node, rest, ok := strings.Cut(name, "/")
	if !ok || node == "" {
		return "", netip.Prefix{}, fmt.Errorf("loan %q: want <node>/<address>-<length>", name)
	}
	if block, err = parseBlock(strings.Replace(rest, "-", "/", 1)); err != nil {
		return "", netip.Prefix{}, fmt.Errorf("loan %q: %w", name, err)
	}
	if LoanKey(node, block).Name != name {
		return "", netip.Prefix{}, fmt.Errorf("loan %q: want <node>/<address>-<length>", name)
	}
	return node, block, nil
}

func loanDefinition() definition {
	d := checked(resource(KindIPAMLoan, "ipamloans", func(o *IPAMLoan) parts {
		return parts{spec: &o.Spec}
	}, "ipamloan"), checkIPAMLoan)
	d.target = func(o Object) any { return &o.(*IPAMLoan).Spec }
	d.bare = true
	return d
}

func checkIPAMLoan(c *checker, l *IPAMLoan) {
	if _, _, err := ParseLoanName(l.Name); err != nil {
		c.bad("metadata.name", l.Name, "want <node>/<address>-<length>, such as node1/10.65.1.0-26")
	}
}
