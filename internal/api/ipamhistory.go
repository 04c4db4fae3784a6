package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPAMHistory is one page of the former owners of a block's addresses. Upstream has
// nothing like it. A block has a fixed number of pages, written in turn, so that its
// history never grows beyond them.
type IPAMHistory struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              IPAMHistorySpec `json:"spec"`
}

// IPAMHistorySpec is the stored value of a page.
type IPAMHistorySpec struct {
	// First is the number of the page's first release, counted over the block's life:
	// the page with the highest one is the newest.
	First uint64 `json:"first"`
	// Releases are in the order in which they were recorded.
	Releases []IPAMRelease `json:"releases"`
}

// IPAMRelease is the end of an assignment.
type IPAMRelease struct {
	Address string `json:"address"`
	Handle  string `json:"handle,omitempty"`
	// Attributes are those of the owner, as the block had them.
	Attributes map[string]string `json:"attributes,omitempty"`
	Released   metav1.Time       `json:"released"`
	Reason     string            `json:"reason,omitempty"`
}

// HistoryKey is the key of a page of a block's history.
func HistoryKey(block netip.Prefix, page int) Key {
	return Key{Kind: KindIPAMHistory, Name: HistoryPrefix(block) + strconv.Itoa(page)}
}

// HistoryPrefix is what the names of all pages of a block start with.
func HistoryPrefix(block netip.Prefix) string {
	return block.Addr().String() + "-" + strconv.Itoa(block.Bits()) + "."
}

// ParseHistoryName is the inverse of HistoryKey.
func ParseHistoryName(name string) (block netip.Prefix, page int, err error) {
	at := strings.LastIndexByte(name, '.')
	if at < 0 {
		return netip.Prefix{}, 0, fmt.Errorf("history %q: want <address>-<length>.<page>", name)
	}
	if block, err = parseBlock(strings.Replace(name[:at], "-", "/", 1)); err != nil {
		return netip.Prefix{}, 0, fmt.Errorf("history %q: %w", name, err)
	}
	page, err = strconv.Atoi(name[at+1:])
	if err != nil || page < 0 || HistoryKey(block, page).Name != name {
		return netip.Prefix{}, 0, fmt.Errorf("history %q: want <address>-<length>.<page>", name)
	}
	return block, page, nil
}

func historyDefinition() definition {
	d := checked(resource(KindIPAMHistory, "ipamhistories", func(o *IPAMHistory) parts {
		return parts{spec: &o.Spec}
	}, "ipamhistory"), checkIPAMHistory)
	d.target = func(o Object) any { return &o.(*IPAMHistory).Spec }
	d.bare = true
	return d
}

func checkIPAMHistory(c *checker, h *IPAMHistory) {
	block, _, err := ParseHistoryName(h.Name)
	if err != nil {
		c.bad("metadata.name", h.Name, "want <address>-<length>.<page>, such as 10.65.1.0-26.0")
	}
	for i, r := range h.Spec.Releases {
		field := at("spec.releases", i) + ".address"
		if addr, ok := c.addr(field, r.Address, 0); ok && err == nil && !block.Contains(addr) {
			c.bad(field, r.Address, "is not in %s", block)
		}
	}
}
