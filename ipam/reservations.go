package ipam

import (
	"net/netip"

	"github.com/gaissmai/bart"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// reservations are the addresses that are not given out: those that an IPReservation
// holds back, and those released too short a while ago. The zero value has none.
type reservations struct {
	table   *bart.Lite
	cooling map[netip.Addr]bool
}

// parseReservations reads addresses and CIDRs. What can't be read is returned
// apart: it reserves nothing, and its author should know.
func parseReservations(objs []*v3.IPReservation) (r reservations, bad []string) {
	for _, obj := range objs {
		for _, text := range obj.Spec.ReservedCIDRs {
			prefix, err := parseAddrOrPrefix(text)
			if err != nil {
				bad = append(bad, obj.Name+": "+text)
				continue
			}
			if r.table == nil {
				r.table = new(bart.Lite)
			}
			r.table.Insert(prefix)
		}
	}
	return r, bad
}

func (r reservations) empty() bool { return r.table == nil && len(r.cooling) == 0 }

func (r reservations) contains(addr netip.Addr) bool {
	return r.holds(addr) || r.cooling[addr]
}

// holds reports whether an IPReservation holds an address back.
func (r reservations) holds(addr netip.Addr) bool {
	return r.table != nil && r.table.Contains(addr)
}

// covers reports whether one IPReservation holds a whole block back.
func (r reservations) covers(block netip.Prefix) bool {
	return r.table != nil && r.table.LookupPrefix(block)
}

// rest has an address cool down, if addresses do.
func (r reservations) rest(addr netip.Addr) {
	if r.cooling != nil {
		r.cooling[addr] = true
	}
}

// parseAddrOrPrefix reads "10.0.0.1" as 10.0.0.1/32.
func parseAddrOrPrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err
}
