package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// request is a message to the kernel in the making.
type request struct {
	kind, flags   uint16
	header, attrs []byte
}

// exchange sends one request and hands every message of its answer to each,
// until the kernel says that it was all. After an error from each the rest of
// the answer is read and dropped.
func (h *Handle) exchange(req request, each func(kind uint16, data []byte) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	h.seq++
	if err := h.socket.send(req.append(h.socket.out[:0], h.seq)); err != nil {
		return err
	}
	a := answer{seq: h.seq, each: each}
	for !a.complete {
		if err := h.socket.receive(dumpSize, a.take); err != nil {
			return err
		}
	}
	return a.err
}

// answer is what the kernel says to one request, as it comes in.
type answer struct {
	seq         uint32
	each        func(kind uint16, data []byte) error
	complete    bool
	interrupted bool // the dump is no consistent picture
	err         error
}

func (a *answer) take(m syscall.NetlinkMessage) {
	if m.Header.Seq != a.seq || a.complete {
		return // the late answer to a request that timed out
	}
	a.interrupted = a.interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
	done, err := verdict(m)
	switch {
	case !done && a.err == nil:
		a.err = a.each(m.Header.Type, m.Data)
	case done:
		a.complete = true
		a.err = errors.Join(err, a.err)
		if a.interrupted {
			a.err = errors.Join(a.err, ErrDumpInterrupted)
		}
	}
}

// exchangeAll sends requests at once and returns what the kernel said to each, in
// order. The kernel works them off one by one, whatever becomes of those before.
// Only the last one asks for an acknowledgement, since failures are told anyway:
// once it is answered, all are.
func (h *Handle) exchangeAll(requests []request) []error {
	if len(requests) == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := make([]error, len(requests))
	first := h.seq + 1
	msgs := h.socket.out[:0]
	for i, r := range requests {
		h.seq++
		if i == len(requests)-1 {
			r.flags |= unix.NLM_F_ACK
		}
		msgs = r.append(msgs, h.seq)
	}
	if err := h.collect(msgs, first, errs); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err // nobody knows
			}
		}
	}
	return errs
}

// collect sends messages and files each answer by its sequence number, of which
// first is the first message's, until the last message is answered.
func (h *Handle) collect(msgs []byte, first uint32, errs []error) error {
	if h.closed {
		return os.ErrClosed
	}
	if err := h.socket.send(msgs); err != nil {
		return err
	}
	for complete := false; !complete; {
		err := h.socket.receive(ackSize, func(m syscall.NetlinkMessage) {
			i := int(m.Header.Seq - first)
			if i < 0 || i >= len(errs) {
				return // the late answer to a request that timed out
			}
			if done, err := verdict(m); done {
				errs[i] = err
				complete = complete || i == len(errs)-1
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// verdict is done for the last message of an answer, with what it says.
func verdict(m syscall.NetlinkMessage) (done bool, err error) {
	if m.Header.Type != unix.NLMSG_DONE && m.Header.Type != unix.NLMSG_ERROR {
		return false, nil
	}
	if len(m.Data) < 4 {
		return true, nil // an empty NLMSG_DONE is a success
	}
	errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	if errno == 0 {
		return true, nil
	}
	if m.Header.Type == unix.NLMSG_DONE && errno == unix.EINTR {
		return true, ErrDumpInterrupted
	}
	if text := explanation(m); text != "" {
		return true, fmt.Errorf("%w: %s", errno, text)
	}
	return true, errno
}

// explanation is the kernel's own words on an error. They come after the errno
// and, unless a dump ends here, the request echoed whole or only its header.
func explanation(m syscall.NetlinkMessage) (text string) {
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return ""
	}
	rest := m.Data[4:]
	if m.Header.Type == unix.NLMSG_ERROR {
		if len(rest) < unix.SizeofNlMsghdr {
			return ""
		}
		echoed := unix.SizeofNlMsghdr
		if m.Header.Flags&unix.NLM_F_CAPPED == 0 {
			echoed = align(int(binary.NativeEndian.Uint32(rest)))
		}
		if echoed > len(rest) {
			return ""
		}
		rest = rest[echoed:]
	}
	_ = eachAttribute(rest, func(kind uint16, value []byte) error {
		if kind == unix.NLMSGERR_ATTR_MSG {
			text = unix.ByteSliceToString(value)
		}
		return nil
	})
	return text
}

// append adds the request as a message with its netlink header. Header and
// attributes are multiples of four bytes long, so messages may follow one another.
func (r request) append(b []byte, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(r.header)+len(r.attrs)))
	b = binary.NativeEndian.AppendUint16(b, r.kind)
	b = binary.NativeEndian.AppendUint16(b, r.flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, r.header...)
	return append(b, r.attrs...)
}

func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// attributeKindMask removes the "nested" and "network byte order" bits.
const attributeKindMask = 0x3fff

// attributesSize is enough for most requests.
const attributesSize = 192

// attributes is a list of netlink attributes in the making.
type attributes []byte

// bytes adds an attribute. The kernel wants each one to begin on four bytes.
func (a *attributes) bytes(kind uint16, value []byte) {
	start := a.begin(kind)
	*a = append(*a, value...)
	a.end(start)
}

func (a *attributes) uint32(kind uint16, v uint32) {
	start := a.begin(kind)
	*a = binary.NativeEndian.AppendUint32(*a, v)
	a.end(start)
}

func (a *attributes) text(kind uint16, s string) {
	start := a.begin(kind)
	*a = append(append(*a, s...), 0)
	a.end(start)
}

// begin opens an attribute whose value is appended next; end closes it.
func (a *attributes) begin(kind uint16) (start int) {
	if *a == nil {
		*a = make(attributes, 0, attributesSize)
	}
	start = len(*a)
	*a = binary.NativeEndian.AppendUint16(*a, 0)
	*a = binary.NativeEndian.AppendUint16(*a, kind)
	return start
}

func (a *attributes) end(start int) {
	binary.NativeEndian.PutUint16((*a)[start:], uint16(len(*a)-start))
	for len(*a)%unix.NLA_ALIGNTO != 0 {
		*a = append(*a, 0)
	}
}

// eachAttribute calls f for every attribute in b; the flag bits of the kind are
// removed.
func eachAttribute(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			return fmt.Errorf("attribute of %d bytes where %d are left: %w", length, len(b), unix.EBADMSG)
		}
		kind := binary.NativeEndian.Uint16(b[2:]) & attributeKindMask
		if err := f(kind, b[unix.SizeofRtAttr:length]); err != nil {
			return err
		}
		// The last one may lack its padding.
		b = b[min(align(length), len(b)):]
	}
	return nil
}

// number reads an attribute of four bytes; a shorter one is a malformed message.
func number(value []byte) (uint32, error) {
	if len(value) < 4 {
		return 0, fmt.Errorf("attribute of %d bytes where four are due: %w", len(value), syscall.EBADMSG)
	}
	return binary.NativeEndian.Uint32(value), nil
}
