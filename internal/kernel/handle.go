package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// answerTimeout bounds every request: a kernel that is registering
	// hundreds of devices can keep a request waiting for seconds, never this
	// long.
	answerTimeout = 30 * time.Second
	// dumpTries is how often a dump that the kernel interrupted is begun again
	// before the caller is told.
	dumpTries = 10
	// requestBuffer is the receive buffer asked for: large dumps arrive in
	// pieces of 32 KiB, so this leaves ample room.
	requestBuffer = 1 << 20
)

// Handle speaks netlink in one network namespace. Its methods may be called from
// several goroutines; requests are answered one after another. Errors are
// [*Error].
type Handle struct {
	socket *nl.SocketHandle
}

// Open opens a Handle in the network namespace of the calling thread.
func Open() (*Handle, error) {
	return open(netns.None())
}

// OpenAt opens a Handle in the network namespace at path, for example
// /proc/7/ns/net.
func OpenAt(path string) (*Handle, error) {
	ns, err := OpenNetns(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return ns.Open()
}

// Open opens a Handle in the namespace. The Handle outlives n.
func (n *Netns) Open() (*Handle, error) {
	return open(netns.NsHandle(n.Fd()))
}

func open(ns netns.NsHandle) (*Handle, error) {
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, NewError("open netlink socket", "", err)
	}
	h := &Handle{socket: &nl.SocketHandle{Socket: socket}}
	if err := h.configure(); err != nil {
		socket.Close()
		return nil, NewError("configure netlink socket", "", err)
	}
	return h, nil
}

// configure asks for strict checking, without which the kernel ignores dump
// filters, and for the kernel's own words with every errno.
func (h *Handle) configure() error {
	s := h.socket.Socket
	if err := s.SetExtAck(true); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return err
	}
	// Best effort: without CAP_NET_ADMIN the default buffer has to do.
	_ = s.SetReceiveBufferSize(requestBuffer, true)
	tv := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := s.SetSendTimeout(&tv); err != nil {
		return err
	}
	return s.SetReceiveTimeout(&tv)
}

// Close releases the Handle's socket.
func (h *Handle) Close() {
	h.socket.Close()
}

// Netns opens the namespace the Handle works in.
func (h *Handle) Netns() (*Netns, error) {
	fd, err := unix.IoctlRetInt(h.socket.Socket.GetFd(), unix.SIOCGSKNS)
	if err != nil {
		return nil, NewError("open network namespace", "of the netlink socket", err)
	}
	unix.CloseOnExec(fd)
	return &Netns{file: os.NewFile(uintptr(fd), "netns of netlink socket")}, nil
}

// request builds a request from a fixed header and attributes.
func (h *Handle) request(kind, flags int, header, attrs []byte) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.socket}
	req.AddRawData(header)
	req.AddRawData(attrs)
	return req
}

// do sends a request and waits for its acknowledgement.
func (h *Handle) do(kind, flags int, header, attrs []byte) error {
	_, err := h.request(kind, flags|unix.NLM_F_ACK, header, attrs).Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// get sends a request that is answered by one message.
func (h *Handle) get(kind int, answer uint16, header, attrs []byte) ([]byte, error) {
	msgs, err := h.request(kind, 0, header, attrs).Execute(unix.NETLINK_ROUTE, answer)
	if err != nil {
		return nil, err
	}
	if len(msgs) == 0 {
		return nil, unix.ENOENT
	}
	return msgs[0], nil
}

// dump collects every answer to a dump. What was gathered before an interruption
// is thrown away: the result is one consistent picture or an error.
func dump[T any](ctx context.Context, h *Handle, kind int, answer uint16, header, attrs []byte,
	decode func([]byte) (T, bool, error),
) ([]T, error) {
	return retryDump(ctx, func() ([]T, error) {
		var out []T
		var bad error
		req := h.request(kind, unix.NLM_F_DUMP, header, attrs)
		err := req.ExecuteIter(unix.NETLINK_ROUTE, answer, func(msg []byte) bool {
			v, keep, err := decode(msg)
			if err != nil {
				bad = err
				return false
			}
			if keep {
				out = append(out, v)
			}
			return true
		})
		return out, errors.Join(err, bad)
	})
}

// retryDump begins a dump again for as long as the kernel says it was
// interrupted, at most dumpTries times.
func retryDump[T any](ctx context.Context, once func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out, err := once()
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, nl.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR):
			return nil, err
		case try == dumpTries:
			return nil, fmt.Errorf("%w %d times in a row: the kernel is changing faster than it can be read",
				ErrDumpInterrupted, try)
		}
	}
}

// attributeKindMask removes the "nested" and "network byte order" bits.
const attributeKindMask = 0x3fff

// attributes is a list of netlink attributes in the making.
type attributes []byte

// bytes adds an attribute. The kernel wants each one to begin on four bytes.
func (a *attributes) bytes(kind uint16, value []byte) {
	start := a.begin(kind)
	*a = append(*a, value...)
	a.end(start)
}

func (a *attributes) uint32(kind uint16, v uint32) {
	a.bytes(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (a *attributes) text(kind uint16, s string) {
	a.bytes(kind, append([]byte(s), 0))
}

// begin opens an attribute whose value is appended next; end closes it.
func (a *attributes) begin(kind uint16) (start int) {
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
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return fmt.Errorf("parse attributes: %w", err)
	}
	for _, a := range attrs {
		if err := f(a.Attr.Type&attributeKindMask, a.Value); err != nil {
			return err
		}
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
