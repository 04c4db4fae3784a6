package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// The closed set of classes a caller decides on with errors.Is. The errno stays
// visible to errors.Is too.
var (
	// ErrNotFound: the link, route, address or namespace does not exist. A
	// route whose link is gone is of this class.
	ErrNotFound = errors.New("not found")
	// ErrExists: something of that identity is there already.
	ErrExists = errors.New("already exists")
	// ErrBusy: try again later.
	ErrBusy = errors.New("busy")
	// ErrLinkDown: the link is there but not up, so no route can use it.
	ErrLinkDown = errors.New("link is down")
	// ErrUnreachable: no route leads to the gateway.
	ErrUnreachable = errors.New("gateway is unreachable")
	// ErrNotSupported: this kernel lacks the feature, or it is switched off.
	ErrNotSupported = errors.New("not supported by this kernel")
	// ErrInvalid: the kernel, or we, refuse the request as it is: a bug.
	ErrInvalid = errors.New("invalid request")
	// ErrPermission: the caller lacks CAP_NET_ADMIN.
	ErrPermission = errors.New("not permitted")
	// ErrDumpInterrupted: the kernel changed while it was being read, more
	// often in a row than we retry. Nothing partial is ever returned.
	ErrDumpInterrupted = errors.New("dump interrupted")
	// ErrTimeout: the kernel did not answer in time.
	ErrTimeout = errors.New("timed out")
)

// Error is a refused request to the kernel. Its text names the operation and
// the object; Err keeps the errno and the kernel's own explanation.
type Error struct {
	Op     string // "replace route"
	Object string // "10.65.0.0/26 via 192.168.1.2 dev 3 proto 81"
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Object == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether the error is of one of this package's classes.
func (e *Error) Is(target error) bool { return target == ClassOf(e.Err) }

// ClassOf is the class of the errno within err, nil where it has none.
func ClassOf(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return nil
	}
	switch errno {
	case unix.ENOENT, unix.ENODEV, unix.ESRCH, unix.ENXIO, unix.EADDRNOTAVAIL:
		return ErrNotFound
	case unix.EEXIST:
		return ErrExists
	case unix.EBUSY:
		return ErrBusy
	case unix.ENETDOWN:
		return ErrLinkDown
	case unix.ENETUNREACH, unix.EHOSTUNREACH:
		return ErrUnreachable
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOSYS:
		return ErrNotSupported
	case unix.EINVAL, unix.ERANGE, unix.ENAMETOOLONG:
		return ErrInvalid
	case unix.EPERM, unix.EACCES:
		return ErrPermission
	case unix.EAGAIN, unix.ETIMEDOUT:
		return ErrTimeout
	default:
		return nil
	}
}

// isAbsent reports that what was to be deleted is not there.
func isAbsent(err error) bool { return errors.Is(ClassOf(err), ErrNotFound) }

// NewError is err as the answer to an operation on an object; nil for nil. It is
// exported for fakes of this package, which must answer as the kernel does.
func NewError(op, object string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Object: object, Err: err}
}
