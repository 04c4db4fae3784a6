package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VethSpec describes a veth pair of which one end may be born in another
// namespace.
type VethSpec struct {
	Host    string // name of the end in the Handle's namespace
	HostMAC MAC    // zero for a random one
	// HostGroup is the group of the host's end; 0 for none.
	HostGroup uint32
	// HostDown leaves the host's end switched off; it is up otherwise.
	HostDown bool

	Peer    string // name of the other end
	PeerMAC MAC    // zero for a random one
	// PeerNetns is where the other end is born; nil for the Handle's own
	// namespace. It is down at first: the kernel allows nothing else.
	PeerNetns *Netns

	MTU int // of both ends; 0 for the kernel's default
	// Queues is the number of transmit and of receive queues of each end; 0 is
	// one, which is also cheapest to register.
	Queues int
}

// Constants of linux/veth.h.
const vethInfoPeer = 1

// CreateVeth makes a veth pair by one message and returns the host's end, with
// the other end's index in PeerIndex. ErrExists when either name is taken, and
// then nothing was made.
func (h *Handle) CreateVeth(spec VethSpec) (Link, error) {
	const op = "create veth"
	for _, name := range []string{spec.Host, spec.Peer} {
		if err := validName(name); err != nil {
			return Link{}, NewError(op, fmt.Sprintf("%q", name), err)
		}
	}
	var flags uint32
	if !spec.HostDown {
		flags = unix.IFF_UP
	}
	req := request{
		kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_ACK | unix.NLM_F_ECHO,
		header: linkHeader(0, flags, flags), attrs: spec.encode(),
	}
	var link Link
	err := h.exchange(req, func(kind uint16, msg []byte) (err error) {
		if kind == unix.RTM_NEWLINK {
			link, err = decodeLink(msg)
		}
		return err
	})
	if err != nil {
		return Link{}, NewError(op, spec.Host+" with peer "+spec.Peer, err)
	}
	if link.Index == 0 {
		return h.LinkByName(spec.Host) // a kernel before 6.2 does not echo what it made
	}
	return link, nil
}

func (spec VethSpec) encode() []byte {
	var a attributes
	spec.encodeEnd(&a, spec.Host, spec.HostMAC)
	if spec.HostGroup != 0 {
		a.uint32(unix.IFLA_GROUP, spec.HostGroup)
	}
	info := a.begin(unix.IFLA_LINKINFO)
	a.bytes(unix.IFLA_INFO_KIND, []byte("veth"))
	data := a.begin(unix.IFLA_INFO_DATA)
	peer := a.begin(vethInfoPeer)
	a = append(a, linkHeader(0, 0, 0)...)
	spec.encodeEnd(&a, spec.Peer, spec.PeerMAC)
	if spec.PeerNetns != nil {
		a.uint32(unix.IFLA_NET_NS_FD, uint32(spec.PeerNetns.Fd()))
	}
	a.end(peer)
	a.end(data)
	a.end(info)
	return a
}

func (spec VethSpec) encodeEnd(a *attributes, name string, mac MAC) {
	a.text(unix.IFLA_IFNAME, name)
	if mac != (MAC{}) {
		a.bytes(unix.IFLA_ADDRESS, mac[:])
	}
	if spec.MTU > 0 {
		a.uint32(unix.IFLA_MTU, uint32(spec.MTU))
	}
	queues := uint32(max(spec.Queues, 1))
	a.uint32(unix.IFLA_NUM_TX_QUEUES, queues)
	a.uint32(unix.IFLA_NUM_RX_QUEUES, queues)
}
