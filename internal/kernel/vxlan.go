package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Vxlan is what a VXLAN device keeps for all its life. It is comparable.
type Vxlan struct {
	VNI  uint32
	Port uint16 // UDP, of the other ends and of this one
	// Local is the address it sends from, which also says by which version of IP.
	Local netip.Addr
	// Learning: it believes the packets it receives about where an address is.
	Learning bool
}

// VxlanSpec describes a VXLAN device. It is born down, and without a default
// destination: it sends to whom an [FDBEntry] names, and floods nothing.
type VxlanSpec struct {
	Name string
	MAC  MAC
	MTU  int
	Vxlan
}

// CreateVxlan makes a VXLAN device. ErrExists when the name is taken, or the VNI on
// that port by another device of the same version of IP.
func (h *Handle) CreateVxlan(spec VxlanSpec) (Link, error) {
	const op = "create vxlan"
	if err := validName(spec.Name); err != nil {
		return Link{}, NewError(op, fmt.Sprintf("%q", spec.Name), err)
	}
	if err := spec.Validate(); err != nil {
		return Link{}, NewError(op, spec.Name, err)
	}
	req := request{
		kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
		header: linkHeader(0, 0, 0), attrs: spec.encode(),
	}
	if err := h.exchangeAll([]request{req})[0]; err != nil {
		return Link{}, NewError(op, spec.String(), err)
	}
	return h.LinkByName(spec.Name)
}

// Validate says why there can be no such device.
func (spec VxlanSpec) Validate() error {
	switch {
	case spec.VNI == 0 || spec.VNI >= 1<<24:
		return fmt.Errorf("VNI %d is not within 1 to %d: %w", spec.VNI, 1<<24-1, ErrInvalid)
	case spec.Port == 0:
		return fmt.Errorf("no port: %w", ErrInvalid)
	case !spec.Local.IsValid():
		return fmt.Errorf("no local address: %w", ErrInvalid)
	}
	return nil
}

// String is the device as ip(8) would print it.
func (spec VxlanSpec) String() string {
	return fmt.Sprintf("%s id %d local %s dstport %d", spec.Name, spec.VNI, spec.Local, spec.Port)
}

func (spec VxlanSpec) encode() []byte {
	var a attributes
	a.text(unix.IFLA_IFNAME, spec.Name)
	if spec.MAC != (MAC{}) {
		a.bytes(unix.IFLA_ADDRESS, spec.MAC[:])
	}
	if spec.MTU > 0 {
		a.uint32(unix.IFLA_MTU, uint32(spec.MTU))
	}
	info := a.begin(unix.IFLA_LINKINFO)
	a.bytes(unix.IFLA_INFO_KIND, []byte("vxlan"))
	data := a.begin(unix.IFLA_INFO_DATA)
	a.uint32(unix.IFLA_VXLAN_ID, spec.VNI)
	local := uint16(unix.IFLA_VXLAN_LOCAL)
	if FamilyOf(spec.Local) == IPv6 {
		local = unix.IFLA_VXLAN_LOCAL6
	}
	a.bytes(local, spec.Local.Unmap().AsSlice())
	a.bytes(unix.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, spec.Port))
	learning := byte(0)
	if spec.Learning {
		learning = 1
	}
	a.bytes(unix.IFLA_VXLAN_LEARNING, []byte{learning})
	a.end(data)
	a.end(info)
	return a
}

// Vxlan reads the settings of a VXLAN device; ErrInvalid when the link is none.
func (h *Handle) Vxlan(index int) (Vxlan, error) {
	var attrs attributes
	attrs.uint32(unix.IFLA_EXT_MASK, skipStatistics)
	var v Vxlan
	err := h.get(unix.RTM_GETLINK, unix.RTM_NEWLINK, linkHeader(index, 0, 0), attrs, func(msg []byte) error {
		return decodeKind(msg, "vxlan", v.decodeAttribute)
	})
	return v, NewError("read vxlan", strconv.Itoa(index), err)
}

// decodeKind reads the settings of a device of a kind.
func decodeKind(msg []byte, want string, each func(kind uint16, value []byte) error) error {
	if len(msg) < unix.SizeofIfInfomsg {
		return fmt.Errorf("link message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	found := false
	err := eachAttribute(msg[unix.SizeofIfInfomsg:], func(kind uint16, info []byte) error {
		if kind != unix.IFLA_LINKINFO {
			return nil
		}
		var data []byte
		err := eachAttribute(info, func(kind uint16, value []byte) error {
			switch kind {
			case unix.IFLA_INFO_KIND:
				found = unix.ByteSliceToString(value) == want
			case unix.IFLA_INFO_DATA:
				data = value
			}
			return nil
		})
		if err != nil || !found {
			return err
		}
		return eachAttribute(data, each)
	})
	if err == nil && !found {
		err = fmt.Errorf("no device of kind %s: %w", want, unix.EINVAL)
	}
	return err
}

func (v *Vxlan) decodeAttribute(kind uint16, value []byte) (err error) {
	switch kind {
	case unix.IFLA_VXLAN_ID:
		v.VNI, err = number(value)
	case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
		v.Local, err = address(value)
	case unix.IFLA_VXLAN_PORT:
		if len(value) >= 2 {
			v.Port = binary.BigEndian.Uint16(value)
		}
	case unix.IFLA_VXLAN_LEARNING:
		v.Learning = len(value) > 0 && value[0] != 0
	}
	return err
}

// FDBEntry says to which address a VXLAN device sends the packets for an Ethernet
// address. As a [Change] it is written in place of the one for that Ethernet address,
// and stays until it is deleted.
type FDBEntry struct {
	Link   int
	MAC    MAC
	Remote netip.Addr
}

// String is the entry as bridge(8) would print it, less the name of the link.
func (e FDBEntry) String() string {
	return fmt.Sprintf("%s dst %s dev %d", e.MAC, e.Remote, e.Link)
}

// Subject implements [Change].
func (e FDBEntry) Subject() (op, object string) { return "set fdb entry", e.String() }

func (e FDBEntry) encode() (request, error) {
	if e.Link <= 0 {
		return request{}, unix.ENODEV
	}
	header, attrs := e.encodeKey()
	attrs.bytes(unix.NDA_DST, e.Remote.Unmap().AsSlice())
	return request{
		kind: unix.RTM_NEWNEIGH, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE, header: header, attrs: attrs,
	}, nil
}

func (e FDBEntry) encodeKey() (header []byte, attrs attributes) {
	header = make([]byte, sizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	binary.NativeEndian.PutUint32(header[4:], uint32(e.Link))
	binary.NativeEndian.PutUint16(header[8:], unix.NUD_PERMANENT)
	header[10] = unix.NTF_SELF // the device's own table, not a bridge's
	attrs.bytes(unix.NDA_LLADDR, e.MAC[:])
	return header, attrs
}

// SetFDB is the change [FDBEntry].
func (h *Handle) SetFDB(e FDBEntry) error { return h.one(e) }

// DeleteFDB removes the entry for an Ethernet address. One that is absent is a
// success.
func (h *Handle) DeleteFDB(link int, mac MAC) error {
	header, attrs := FDBEntry{Link: link, MAC: mac}.encodeKey()
	return h.deleteNeighbour("delete fdb entry", fmt.Sprintf("%s of link %d", mac, link), header, attrs)
}

// FDB reads where a VXLAN device sends, but for a default destination.
func (h *Handle) FDB(link int) ([]FDBEntry, error) {
	header := make([]byte, sizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	var attrs attributes
	attrs.uint32(unix.NDA_IFINDEX, uint32(link))
	entries, err := dump(context.Background(), h,
		request{kind: unix.RTM_GETNEIGH, header: header, attrs: attrs}, unix.RTM_NEWNEIGH,
		func(msg []byte) (FDBEntry, bool, error) {
			e, ok, err := decodeFDB(msg)
			return e, ok && e.Link == link, err
		})
	return entries, NewError("read fdb of link", strconv.Itoa(link), err)
}

func decodeFDB(msg []byte) (e FDBEntry, ok bool, err error) {
	if len(msg) < sizeofNdMsg {
		return e, false, fmt.Errorf("fdb message of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	if msg[0] != unix.AF_BRIDGE {
		return e, false, nil
	}
	n, err := decodeNdMsg(msg)
	e = FDBEntry{Link: n.Link, MAC: n.MAC, Remote: n.IP}
	return e, e.MAC != (MAC{}) && e.Remote.IsValid(), err
}
