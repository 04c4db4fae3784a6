package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String is the address as ip(8) prints it.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Link is a network interface. It is comparable.
type Link struct {
	Index int
	Name  string
	Kind  string // "veth", "vxlan", "bridge" …; "" for hardware and the loopback
	MTU   int
	MAC   MAC
	Up    bool // switched on
	// Running: switched on and the other end of the cable is too.
	Running bool
	Group   uint32
	// Alias is a text that somebody has given it, which goes with it.
	Alias string
	// PeerIndex is the index of a veth's other end, in that one's own
	// namespace; 0 where there is none.
	PeerIndex int
	// PeerNetns is the kernel's id, within this namespace, of the namespace the
	// other end is in; -1 when it is this one.
	PeerNetns int
}

// skipStatistics keeps counters, which nobody here reads, out of the answers.
const skipStatistics = 1 << 3

// Links reads every link of the namespace.
func (h *Handle) Links() ([]Link, error) {
	var attrs attributes
	attrs.uint32(unix.IFLA_EXT_MASK, skipStatistics)
	links, err := dump(context.Background(), h,
		request{kind: unix.RTM_GETLINK, header: linkHeader(0, 0, 0), attrs: attrs}, unix.RTM_NEWLINK,
		func(msg []byte) (Link, bool, error) {
			l, err := decodeLink(msg)
			return l, true, err
		})
	return links, NewError("read links", "", err)
}

// LinkByName reads one link; ErrNotFound when there is none of that name.
func (h *Handle) LinkByName(name string) (Link, error) {
	if err := validName(name); err != nil {
		return Link{}, NewError("read link", name, err)
	}
	var attrs attributes
	attrs.text(unix.IFLA_IFNAME, name)
	return h.link(name, linkHeader(0, 0, 0), attrs)
}

// LinkByIndex reads one link; ErrNotFound when there is none of that index.
func (h *Handle) LinkByIndex(index int) (Link, error) {
	return h.link(strconv.Itoa(index), linkHeader(index, 0, 0), nil)
}

func (h *Handle) link(object string, header []byte, attrs attributes) (Link, error) {
	attrs.uint32(unix.IFLA_EXT_MASK, skipStatistics)
	var l Link
	err := h.get(unix.RTM_GETLINK, unix.RTM_NEWLINK, header, attrs, func(msg []byte) (err error) {
		l, err = decodeLink(msg)
		return err
	})
	return l, NewError("read link", object, err)
}

// IsUp reports whether a link is switched on, at much less than the price of reading
// it.
func (h *Handle) IsUp(name string) (bool, error) {
	const op = "read flags of link"
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false, NewError(op, name, os.ErrClosed)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(h.socket.fd, unix.SIOCGIFFLAGS, req)
	}
	if err != nil {
		return false, NewError(op, name, err)
	}
	return req.Uint16()&unix.IFF_UP != 0, nil
}

// SetUp switches a link on.
func (h *Handle) SetUp(index int) error {
	return h.one(LinkUp{Link: index})
}

// SetDown switches a link off. The kernel drops the routes over it.
func (h *Handle) SetDown(index int) error {
	return h.setLink("switch off link", index, unix.IFF_UP, nil)
}

// SetMTU changes a link's MTU.
func (h *Handle) SetMTU(index, mtu int) error {
	var attrs attributes
	attrs.uint32(unix.IFLA_MTU, uint32(mtu))
	return h.setLink("set MTU of link", index, 0, attrs)
}

// SetMAC changes a link's Ethernet address.
func (h *Handle) SetMAC(index int, mac MAC) error {
	var attrs attributes
	attrs.bytes(unix.IFLA_ADDRESS, mac[:])
	return h.setLink("set MAC address of link", index, 0, attrs)
}

// SetAlias gives a link a text; an empty one takes it away.
func (h *Handle) SetAlias(index int, alias string) error {
	var attrs attributes
	attrs.bytes(unix.IFLA_IFALIAS, []byte(alias))
	return h.setLink("set alias of link", index, 0, attrs)
}

// SetGroup is the change [LinkGroup].
func (h *Handle) SetGroup(index int, group uint32) error {
	return h.one(LinkGroup{Link: index, Group: group})
}

// Rename is the change [LinkName].
func (h *Handle) Rename(index int, name string) error {
	return h.one(LinkName{Link: index, Name: name})
}

// setLink changes a link; off are flags that it loses.
func (h *Handle) setLink(op string, index int, off uint32, attrs attributes) error {
	req, err := encodeSetLink(index, 0, off, attrs)
	if err == nil {
		err = h.exchangeAll([]request{req})[0]
	}
	return NewError(op, strconv.Itoa(index), err)
}

func encodeSetLink(index int, flags, change uint32, attrs attributes) (request, error) {
	if index <= 0 {
		return request{}, unix.ENODEV
	}
	// SETLINK, unlike NEWLINK, never makes a link.
	return request{kind: unix.RTM_SETLINK, header: linkHeader(index, flags, change), attrs: attrs}, nil
}

// DeleteLink removes a link and, for a veth, its peer. One that is absent is a
// success. It takes about 20 ms whatever the link: to remove several, see
// [Handle.DeleteGroup].
func (h *Handle) DeleteLink(index int) error {
	const op = "delete link"
	if index <= 0 {
		return NewError(op, strconv.Itoa(index), fmt.Errorf("no index: %w", ErrInvalid))
	}
	err := h.do(unix.RTM_DELLINK, linkHeader(index, 0, 0), nil)
	if isAbsent(err) {
		return nil
	}
	return NewError(op, strconv.Itoa(index), err)
}

// DeleteGroup removes every link of a group at the price of about one. A group
// without links is a success. Group 0, the one all links are born into, is
// refused.
func (h *Handle) DeleteGroup(group uint32) error {
	const op = "delete links of group"
	object := strconv.FormatUint(uint64(group), 10)
	if group == 0 {
		return NewError(op, object, fmt.Errorf("that would be every link there is: %w", ErrInvalid))
	}
	var attrs attributes
	attrs.uint32(unix.IFLA_GROUP, group)
	err := h.do(unix.RTM_DELLINK, linkHeader(0, 0, 0), attrs)
	if isAbsent(err) {
		return nil
	}
	return NewError(op, object, err)
}

// linkHeader is struct ifinfomsg.
func linkHeader(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// validName refuses what the kernel would, and names it would read as a pattern.
func validName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("an interface name has 1 to %d bytes: %w", unix.IFNAMSIZ-1, unix.EINVAL)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c == '/' || c == ':' || c == '%' || c == 0x7f {
			return fmt.Errorf("byte %q in an interface name: %w", c, unix.EINVAL)
		}
	}
	return nil
}

func decodeLink(msg []byte) (Link, error) {
	if len(msg) < unix.SizeofIfInfomsg {
		return Link{}, fmt.Errorf("link message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	flags := binary.NativeEndian.Uint32(msg[8:])
	l := Link{
		Index:     int(int32(binary.NativeEndian.Uint32(msg[4:]))),
		Up:        flags&unix.IFF_UP != 0,
		Running:   flags&unix.IFF_UP != 0 && flags&unix.IFF_LOWER_UP != 0,
		PeerNetns: -1,
	}
	err := eachAttribute(msg[unix.SizeofIfInfomsg:], l.decodeAttribute)
	return l, err
}

func (l *Link) decodeAttribute(kind uint16, value []byte) (err error) {
	var n uint32
	switch kind {
	case unix.IFLA_IFNAME:
		l.Name = unix.ByteSliceToString(value)
	case unix.IFLA_ADDRESS:
		if len(value) == len(l.MAC) {
			l.MAC = MAC(value)
		}
	case unix.IFLA_IFALIAS:
		l.Alias = unix.ByteSliceToString(value)
	case unix.IFLA_MTU:
		n, err = number(value)
		l.MTU = int(n)
	case unix.IFLA_GROUP:
		l.Group, err = number(value)
	case unix.IFLA_LINK:
		n, err = number(value)
		l.PeerIndex = int(n)
	case unix.IFLA_LINK_NETNSID:
		n, err = number(value)
		l.PeerNetns = int(int32(n))
	case unix.IFLA_LINKINFO:
		err = eachAttribute(value, func(kind uint16, value []byte) error {
			if kind == unix.IFLA_INFO_KIND {
				l.Kind = unix.ByteSliceToString(value)
			}
			return nil
		})
	}
	return err
}
