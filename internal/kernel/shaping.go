package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"

	"golang.org/x/sys/unix"
)

// TokenBucket shapes all that a link sends: the queueing discipline "tbf" at its root,
// with a handle by which it is known as ours. It is comparable.
type TokenBucket struct {
	Link int
	// Rate is in bytes a second, Burst in bytes. A packet that is larger than Burst and
	// can't be cut is dropped, so Burst is to be no less than the link's MTU and header.
	Rate  uint64
	Burst uint32
	// Peak and PeakBurst are a second bucket; 0 for none.
	Peak      uint64
	PeakBurst uint32
	// Queue is how many bytes may wait.
	Queue uint32
}

// Constants of linux/pkt_sched.h, pkt_cls.h and tc_act/tc_mirred.h, and our marks.
const (
	ourHandle   = 0x80 << 16 // tc(8) shows "80:"
	ourPriority = 80

	tcRoot          = 0xffffffff
	tcIngress       = 0xfffffff1
	tcIngressHandle = 0xffff0000
	sizeofTcMsg     = 20

	tcaKind, tcaOptions                              = 1, 2
	tbfParms, tbfRate64, tbfPrate64                  = 1, 4, 5
	tbfBurst, tbfPburst                              = 6, 7
	u32Sel, u32Act, u32Terminal                      = 5, 7, 1
	actKind, actOptions, actStolen                   = 1, 2, 4
	mirredParms, mirredEgressRedirect                = 2, 1
	sizeofRateSpec, sizeofTbfQopt, sizeofMirredParms = 12, 36, 28
	sizeofU32Selector, sizeofU32Key                  = 16, 16
)

// String is the bucket as tc(8) would print it, less the name of the link.
func (b TokenBucket) String() string {
	s := fmt.Sprintf("tbf rate %d bytes/s burst %d limit %d", b.Rate, b.Burst, b.Queue)
	if b.Peak > 0 {
		s += fmt.Sprintf(" peakrate %d bytes/s minburst %d", b.Peak, b.PeakBurst)
	}
	return s
}

// Like reports whether a bucket that was read is one that was written: the kernel keeps
// a burst as the time that it takes, in steps of 64 ns.
func (b TokenBucket) Like(written TokenBucket) bool {
	near := func(read, burst uint32, rate uint64) bool {
		step := 64 * float64(rate) / 1e9
		return math.Abs(float64(read)-float64(burst)) <= 2*(1+step)+float64(burst)/1000
	}
	return b.Link == written.Link && b.Rate == written.Rate && b.Peak == written.Peak && b.Queue == written.Queue &&
		near(b.Burst, written.Burst, b.Rate) && near(b.PeakBurst, written.PeakBurst, b.Peak)
}

// SetTokenBucket writes a bucket in place of whatever is at the root of its link.
func (h *Handle) SetTokenBucket(b TokenBucket) error {
	req, err := b.encode()
	if err == nil {
		err = h.exchangeAll([]request{req})[0]
	}
	return NewError("shape link", fmt.Sprintf("%d: %s", b.Link, b), err)
}

// DeleteTokenBucket takes our bucket of a link away.
func (h *Handle) DeleteTokenBucket(link int) error {
	err := h.do(unix.RTM_DELQDISC, tcHeader(link, ourHandle, tcRoot, 0), nil)
	return NewError("stop shaping link", strconv.Itoa(link), err)
}

func (b TokenBucket) encode() (request, error) {
	if b.Link <= 0 {
		return request{}, unix.ENODEV
	}
	if b.Rate == 0 || b.Burst == 0 || b.Queue == 0 || b.Peak > 0 && b.PeakBurst == 0 {
		return request{}, fmt.Errorf("no rate, burst or queue: %w", ErrInvalid)
	}
	var a attributes
	a.bytes(tcaKind, []byte("tbf\x00"))
	options := a.begin(tcaOptions)
	parms := make([]byte, sizeofTbfQopt)
	binary.NativeEndian.PutUint32(parms[8:], rate32(b.Rate))
	binary.NativeEndian.PutUint32(parms[sizeofRateSpec+8:], rate32(b.Peak))
	binary.NativeEndian.PutUint32(parms[2*sizeofRateSpec:], b.Queue)
	parms[1], parms[sizeofRateSpec+1] = linkLayerEthernet, linkLayerEthernet
	a.bytes(tbfParms, parms)
	a.uint32(tbfBurst, b.Burst)
	if b.Rate > math.MaxUint32 {
		a.bytes(tbfRate64, binary.NativeEndian.AppendUint64(nil, b.Rate))
	}
	if b.Peak > 0 {
		a.uint32(tbfPburst, b.PeakBurst)
	}
	if b.Peak > math.MaxUint32 {
		a.bytes(tbfPrate64, binary.NativeEndian.AppendUint64(nil, b.Peak))
	}
	a.end(options)
	return request{
		kind: unix.RTM_NEWQDISC, flags: unix.NLM_F_CREATE | unix.NLM_F_REPLACE,
		header: tcHeader(b.Link, ourHandle, tcRoot, 0), attrs: a,
	}, nil
}

// linkLayerEthernet tells the kernel that no table of rates comes along, as older tc(8)
// would give it.
const linkLayerEthernet = 1

func rate32(rate uint64) uint32 { return uint32(min(rate, math.MaxUint32)) }

// Redirect hands all that a link receives to another one, by whose end of sending it
// goes on: a rule at a priority by which it is known as ours, beside what others have
// there. There must be none of ours.
func (h *Handle) Redirect(link, to int) error {
	var carrier attributes
	carrier.bytes(tcaKind, []byte("ingress\x00"))
	errs := h.exchangeAll([]request{{
		kind: unix.RTM_NEWQDISC, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
		header: tcHeader(link, tcIngressHandle, tcIngress, 0), attrs: carrier,
	}, {
		kind: unix.RTM_NEWTFILTER, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
		header: tcHeader(link, 0, tcIngressHandle, redirectInfo()), attrs: encodeRedirect(to),
	}})
	if errors.Is(ClassOf(errs[0]), ErrExists) {
		errs[0] = nil // whoever came first has made it
	}
	return NewError("redirect what link receives", fmt.Sprintf("%d to link %d", link, to), cmp.Or(errs...))
}

func encodeRedirect(to int) (a attributes) {
	a.bytes(tcaKind, []byte("u32\x00"))
	options := a.begin(tcaOptions)
	// A selector with one key that every packet has: 0 under the mask 0.
	selector := make([]byte, sizeofU32Selector+sizeofU32Key)
	selector[0], selector[2] = u32Terminal, 1
	a.bytes(u32Sel, selector)
	actions := a.begin(u32Act)
	first := a.begin(1)
	a.bytes(actKind, []byte("mirred\x00"))
	settings := a.begin(actOptions)
	parms := make([]byte, sizeofMirredParms)
	binary.NativeEndian.PutUint32(parms[8:], actStolen)
	binary.NativeEndian.PutUint32(parms[20:], mirredEgressRedirect)
	binary.NativeEndian.PutUint32(parms[24:], uint32(to))
	a.bytes(mirredParms, parms)
	a.end(settings)
	a.end(first)
	a.end(actions)
	a.end(options)
	return a
}

// redirectInfo is the priority of our rules and the protocol they are for: all.
func redirectInfo() uint32 {
	var order [2]byte
	binary.BigEndian.PutUint16(order[:], unix.ETH_P_ALL)
	return ourPriority<<16 | uint32(binary.NativeEndian.Uint16(order[:]))
}

// tcHeader is struct tcmsg.
func tcHeader(link int, handle, parent, info uint32) []byte {
	b := make([]byte, sizeofTcMsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(link))
	binary.NativeEndian.PutUint32(b[8:], handle)
	binary.NativeEndian.PutUint32(b[12:], parent)
	binary.NativeEndian.PutUint32(b[16:], info)
	return b
}

// TokenBuckets reads ours of the namespace.
func (h *Handle) TokenBuckets(ctx context.Context) ([]TokenBucket, error) {
	list, err := dump(ctx, h, request{kind: unix.RTM_GETQDISC, header: tcHeader(0, 0, 0, 0)}, unix.RTM_NEWQDISC, decodeTokenBucket)
	return list, NewError("read queueing disciplines", "", err)
}

func decodeTokenBucket(msg []byte) (b TokenBucket, ours bool, err error) {
	if len(msg) < sizeofTcMsg {
		return b, false, fmt.Errorf("queueing discipline of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	b.Link = int(int32(binary.NativeEndian.Uint32(msg[4:])))
	ours = binary.NativeEndian.Uint32(msg[8:]) == ourHandle && binary.NativeEndian.Uint32(msg[12:]) == tcRoot
	if !ours {
		return b, false, nil
	}
	var buffer, mtu uint32 // in ticks of 64 ns
	err = eachAttribute(msg[sizeofTcMsg:], func(kind uint16, value []byte) error {
		switch {
		case kind == tcaKind:
			ours = ours && unix.ByteSliceToString(value) == "tbf"
		case kind == tcaOptions && ours:
			return eachAttribute(value, func(kind uint16, value []byte) error {
				switch {
				case kind == tbfParms && len(value) >= sizeofTbfQopt:
					b.Rate = uint64(binary.NativeEndian.Uint32(value[8:]))
					b.Peak = uint64(binary.NativeEndian.Uint32(value[sizeofRateSpec+8:]))
					b.Queue = binary.NativeEndian.Uint32(value[2*sizeofRateSpec:])
					buffer = binary.NativeEndian.Uint32(value[2*sizeofRateSpec+4:])
					mtu = binary.NativeEndian.Uint32(value[2*sizeofRateSpec+8:])
				case kind == tbfRate64 && len(value) >= 8:
					b.Rate = binary.NativeEndian.Uint64(value)
				case kind == tbfPrate64 && len(value) >= 8:
					b.Peak = binary.NativeEndian.Uint64(value)
				}
				return nil
			})
		}
		return nil
	})
	b.Burst, b.PeakBurst = inBytes(buffer, b.Rate), inBytes(mtu, b.Peak)
	return b, ours, err
}

// inBytes is how much goes at a rate within ticks of 64 ns.
func inBytes(ticks uint32, rate uint64) uint32 {
	return uint32(min(math.Round(float64(ticks)*64*float64(rate)/1e9), math.MaxUint32))
}

// RedirectOf reads where our Redirect of a link leads: 0 where there is none. others
// tells of rules of whomever beside it.
func (h *Handle) RedirectOf(ctx context.Context, link int) (to int, others bool, err error) {
	list, err := dump(ctx, h, request{kind: unix.RTM_GETTFILTER, header: tcHeader(link, 0, tcIngressHandle, 0)}, unix.RTM_NEWTFILTER, decodeRedirect)
	for _, rule := range list {
		others = others || !rule.ours
		if rule.to != 0 {
			to = rule.to
		}
	}
	return to, others, NewError("read rules for what link receives", strconv.Itoa(link), err)
}

// ruleFor is a rule for what a link receives.
type ruleFor struct {
	ours bool
	to   int
}

func decodeRedirect(msg []byte) (r ruleFor, keep bool, err error) {
	if len(msg) < sizeofTcMsg {
		return r, false, fmt.Errorf("rule of %d bytes: %w", len(msg), unix.EBADMSG)
	}
	r.ours = binary.NativeEndian.Uint32(msg[16:])>>16 == ourPriority
	if !r.ours {
		return r, true, nil
	}
	// Kind and options nest: u32's options hold a list of actions, each with its own.
	var dig func(path []uint16, b []byte) error
	dig = func(path []uint16, b []byte) error {
		return eachAttribute(b, func(kind uint16, value []byte) error {
			switch {
			case kind != path[0]:
				return nil
			case len(path) > 1:
				return dig(path[1:], value)
			case len(value) >= sizeofMirredParms && binary.NativeEndian.Uint32(value[20:]) == mirredEgressRedirect:
				r.to = int(int32(binary.NativeEndian.Uint32(value[24:])))
			}
			return nil
		})
	}
	err = dig([]uint16{tcaOptions, u32Act, 1, actOptions, mirredParms}, msg[sizeofTcMsg:])
	return r, true, err
}

// RemoveRedirect takes our Redirect of a link away, and what carried it when nobody else
// has a rule there. There being none of ours is a success.
func (h *Handle) RemoveRedirect(ctx context.Context, link int) error {
	const op = "stop redirecting what link receives"
	to, others, err := h.RedirectOf(ctx, link)
	switch {
	case err != nil || to == 0:
		return err
	case others:
		err = h.do(unix.RTM_DELTFILTER, tcHeader(link, 0, tcIngressHandle, redirectInfo()), nil)
	default:
		err = h.do(unix.RTM_DELQDISC, tcHeader(link, tcIngressHandle, tcIngress, 0), nil)
	}
	return NewError(op, strconv.Itoa(link), err)
}

// CreateIfb makes a device that gives back what is redirected to it, once it has gone
// through the device's own queue. ErrExists when the name is taken.
func (h *Handle) CreateIfb(name string, mtu int) (Link, error) {
	const op = "create ifb"
	if err := validName(name); err != nil {
		return Link{}, NewError(op, fmt.Sprintf("%q", name), err)
	}
	var a attributes
	a.text(unix.IFLA_IFNAME, name)
	if mtu > 0 {
		a.uint32(unix.IFLA_MTU, uint32(mtu))
	}
	info := a.begin(unix.IFLA_LINKINFO)
	a.bytes(unix.IFLA_INFO_KIND, []byte("ifb"))
	a.end(info)
	req := request{
		kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
		header: linkHeader(0, unix.IFF_UP, unix.IFF_UP), attrs: a,
	}
	if err := h.exchangeAll([]request{req})[0]; err != nil {
		return Link{}, NewError(op, name, err)
	}
	return h.LinkByName(name)
}
