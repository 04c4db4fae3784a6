package kernel

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// IPIP is what an IPIP device is for: two ends, or with none of them all. It is
// comparable.
type IPIP struct{ Local, Remote netip.Addr }

// String names the ends.
func (d IPIP) String() string {
	end := func(a netip.Addr) string {
		if !a.IsValid() {
			return "any"
		}
		return a.String()
	}
	return fmt.Sprintf("local %s remote %s", end(d.Local), end(d.Remote))
}

// The attributes of struct ip_tunnel_parm.
const iptunLocal, iptunRemote = 2, 3

// IPIP reads the ends of an IPIP device; ErrInvalid when the link is none.
func (h *Handle) IPIP(index int) (IPIP, error) {
	var attrs attributes
	attrs.uint32(unix.IFLA_EXT_MASK, skipStatistics)
	var d IPIP
	err := h.get(unix.RTM_GETLINK, unix.RTM_NEWLINK, linkHeader(index, 0, 0), attrs, func(msg []byte) error {
		return decodeKind(msg, "ipip", d.decodeAttribute)
	})
	return d, NewError("read ipip", strconv.Itoa(index), err)
}

func (d *IPIP) decodeAttribute(kind uint16, value []byte) (err error) {
	switch kind {
	case iptunLocal:
		d.Local, err = specified(value)
	case iptunRemote:
		d.Remote, err = specified(value)
	}
	return err
}

// specified is an address but for the one that stands for any.
func specified(value []byte) (netip.Addr, error) {
	a, err := address(value)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}, err
	}
	return a, nil
}
