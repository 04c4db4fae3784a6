package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// answerTimeout bounds every request: a kernel that is registering
	// hundreds of devices can keep a request waiting for seconds, never this
	// long.
	answerTimeout = 30 * time.Second
	// dumpTries is how often a dump that the kernel interrupted is begun again
	// before the caller is told.
	dumpTries = 12
	// The pause before trying again doubles from the first to the longest, so
	// that a burst of new pods has time to end.
	firstDumpPause, longestDumpPause = time.Millisecond, 200 * time.Millisecond
)

// Handle speaks netlink in one network namespace. Its methods may be called from
// several goroutines; requests are answered one after another. Errors are
// [*Error].
type Handle struct {
	home NetnsID // the namespace; the socket keeps it alive
	port uint32  // the socket's address, which marks what comes of our requests

	mu     sync.Mutex // held from a request until its answer is complete
	socket *socket
	seq    uint32
	closed bool // the socket's descriptor may be another file's by now

	sysctls sysctlDirs
}

// Open opens a Handle in the network namespace of the calling thread.
func Open() (*Handle, error) {
	home, err := threadNetnsID()
	if err != nil {
		return nil, err
	}
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	port, err := s.port()
	if err != nil {
		s.close()
		return nil, NewError("open netlink socket", "", err)
	}
	return &Handle{socket: s, home: home, port: port}, nil
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
func (n *Netns) Open() (h *Handle, err error) {
	err = n.Visit(func() error {
		h, err = Open()
		return err
	})
	return h, err
}

// Close releases the Handle's socket, once a request under way is answered.
// Requests after it fail with [os.ErrClosed].
func (h *Handle) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		h.socket.close()
		h.sysctls.close()
	}
}

// Netns opens the namespace the Handle works in.
func (h *Handle) Netns() (*Netns, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, NewError("open network namespace", "of the netlink socket", os.ErrClosed)
	}
	fd, err := unix.IoctlRetInt(h.socket.fd, unix.SIOCGSKNS)
	if err != nil {
		return nil, NewError("open network namespace", "of the netlink socket", err)
	}
	unix.CloseOnExec(fd)
	return &Netns{file: os.NewFile(uintptr(fd), "of the netlink socket")}, nil
}

// do sends a request and waits for its acknowledgement.
func (h *Handle) do(kind uint16, header, attrs []byte) error {
	return h.exchangeAll([]request{{kind: kind, header: header, attrs: attrs}})[0]
}

// get sends a request that is answered by one message, or by an error, and hands
// the message to decode.
func (h *Handle) get(kind, answer uint16, header, attrs []byte, decode func([]byte) error) error {
	all := []request{{kind: kind, header: header, attrs: attrs}}
	var err error
	for _, size := range []int{answerSize, 16 * answerSize} {
		err = unix.ENOENT
		failed := h.getAll(all, size, func(_ int, m syscall.NetlinkMessage) {
			if m.Header.Type == answer {
				err = decode(m.Data)
			} else if _, said := verdict(m); said != nil {
				err = said
			}
		})
		if failed == nil {
			return err
		}
		if err = failed; !errors.Is(err, errTruncated) {
			return err
		}
	}
	return err
}

// getAll sends requests that are answered by one message, or by an error, each, and
// hands the answers to take with the number of the request.
func (h *Handle) getAll(all []request, size int, take func(i int, m syscall.NetlinkMessage)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	first := h.seq + 1
	msgs := h.socket.out[:0]
	for _, r := range all {
		h.seq++
		msgs = r.append(msgs, h.seq)
	}
	if err := h.socket.send(msgs); err != nil {
		return err
	}
	for answered := 0; answered < len(all); {
		err := h.socket.receive(size, func(m syscall.NetlinkMessage) {
			// Others are late answers to a request that timed out.
			if i := int(m.Header.Seq - first); i >= 0 && i < len(all) {
				answered++
				take(i, m)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dump collects every message of kind answer that a dump consists of. What was gathered before an interruption
// is thrown away: the result is one consistent picture or an error.
func dump[T any](ctx context.Context, h *Handle, req request, answer uint16,
	decode func([]byte) (T, bool, error),
) ([]T, error) {
	req.flags |= unix.NLM_F_DUMP
	return retryDump(ctx, func() ([]T, error) {
		var out []T
		err := h.exchange(req, func(kind uint16, data []byte) error {
			if kind != answer {
				return nil
			}
			v, keep, err := decode(data)
			if keep && err == nil {
				out = append(out, v)
			}
			return err
		})
		return out, err
	})
}

// retryDump begins a dump again for as long as the kernel says it was
// interrupted, at most dumpTries times.
func retryDump[T any](ctx context.Context, once func() ([]T, error)) ([]T, error) {
	pause := firstDumpPause
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out, err := once()
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, ErrDumpInterrupted):
			return nil, err
		case try == dumpTries:
			return nil, fmt.Errorf("%w %d times in a row: the kernel is changing faster than it can be read",
				ErrDumpInterrupted, try)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, longestDumpPause)
	}
}
