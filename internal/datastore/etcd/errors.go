package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/internal/datastore"
	"tortie/internal/datastore/record"
)

// classify puts an error of the etcd client into the classes of package
// datastore and, where gRPC hides it, adds what is really wrong. ctx is that of
// the request.
func (c *Client) classify(ctx context.Context, err error) error {
	err = rpctypes.Error(err)
	if tooLarge(err) {
		return errTooLarge
	}
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return classifyEtcd(known, err)
	}
	if stranger := notEtcd(err); stranger != "" {
		return fmt.Errorf("%w: etcd %s: %s: correct ETCD_ENDPOINTS", datastore.ErrUnavailable, endpoints(c.cfg), stranger)
	}
	switch code := status.Code(err); {
	case ctx.Err() != nil,
		code == codes.Unavailable, code == codes.DeadlineExceeded, code == codes.Canceled,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return c.unavailable(ctx, err)
	case code == codes.PermissionDenied, code == codes.Unauthenticated:
		return fmt.Errorf("%w: %s", datastore.ErrUnauthorized, message(err))
	}
	if _, ok := status.FromError(err); ok {
		return fmt.Errorf("etcd: %s", message(err))
	}
	return fmt.Errorf("etcd: %w", err)
}

// errTooLarge: etcd, or gRPC on the way to it, refused a request for its size. Who
// made the request knows that.
var errTooLarge = errors.New("the request is too large for etcd")

func tooLarge(err error) bool {
	return errors.Is(err, rpctypes.ErrRequestTooLarge) ||
		status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "message larger than max")
}

// What etcd takes in one request unless it is told otherwise, and what clientv3
// sends at most.
const (
	requestLimit = 3 << 19 // 1.5 MiB
	sendLimit    = 2 << 20
)

// explainSize says by how much a transaction is too large.
func explainSize(steps []record.Step) error {
	size := 0
	for _, s := range steps {
		size += len(s.Path) + len(s.Value)
	}
	what := "the object has"
	if len(steps) > 1 {
		what = fmt.Sprintf("its %d objects have", len(steps))
	}
	return fmt.Errorf("%w: %s %d bytes, etcd takes %d in one request (more with --max-request-bytes, but never %d): split it into smaller ones",
		errTooLarge, what, size, requestLimit, sendLimit)
}

// notEtcd says who answered in etcd's place; empty if it was etcd or nobody. Of
// an answer that isn't gRPC's, gRPC says so only in its text.
func notEtcd(err error) string {
	s, ok := status.FromError(err)
	switch {
	case !ok || err == nil:
		return ""
	case strings.Contains(s.Message(), "received unexpected content-type"),
		strings.Contains(s.Message(), "missing HTTP content-type"),
		strings.Contains(s.Message(), "unexpected HTTP status code received"):
		return "a web server answers there" + httpStatus(s.Message()) + ", not etcd"
	case s.Code() == codes.Unimplemented:
		return "a gRPC server answers there that is not etcd"
	}
	return ""
}

// httpStatus is the HTTP status in a text of gRPC, as " (404 Not Found)"; empty if
// there is none.
func httpStatus(text string) string {
	_, rest, found := strings.Cut(text, "received from server: ")
	if code, err := strconv.Atoi(rest[:min(len(rest), len("404"))]); found && err == nil {
		return fmt.Sprintf(" (%d %s)", code, http.StatusText(code))
	}
	return ""
}

// unavailable explains why there was no answer. It always matches ErrUnavailable,
// and the context's error when that is what ended the request.
func (c *Client) unavailable(ctx context.Context, err error) error {
	if down := c.health.cause(); down != nil {
		if ended := callerEnded(ctx); ended != nil {
			return fmt.Errorf("%w: %w (%w)", datastore.ErrUnavailable, down, ended)
		}
		return fmt.Errorf("%w: %w", datastore.ErrUnavailable, down)
	}
	if ended := callerEnded(ctx); ended != nil {
		return fmt.Errorf("%w: no answer from etcd %s: %w", datastore.ErrUnavailable, endpoints(c.cfg), ended)
	}
	return fmt.Errorf("%w: etcd %s: %s", datastore.ErrUnavailable, endpoints(c.cfg), message(err))
}

// callerEnded is the error of a context that ended by itself, not because the
// monitor ended it.
func callerEnded(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) || errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// classifyEtcd classifies an error that etcd itself gave.
func classifyEtcd(known rpctypes.EtcdError, err error) error {
	switch {
	case errors.Is(known, rpctypes.ErrCompacted), errors.Is(known, rpctypes.ErrFutureRev):
		return fmt.Errorf("%w: %s", datastore.ErrCompacted, message(err))
	case errors.Is(known, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: etcd asks for a user: set ETCD_USERNAME and ETCD_PASSWORD", datastore.ErrUnauthorized)
	case errors.Is(known, rpctypes.ErrAuthFailed):
		return fmt.Errorf("%w: %s: check ETCD_USERNAME and ETCD_PASSWORD", datastore.ErrUnauthorized, message(err))
	case errors.Is(known, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%w: %s: the etcd user needs read and write permission below /calico/", datastore.ErrUnauthorized, message(err))
	case errors.Is(known, rpctypes.ErrInvalidAuthToken), errors.Is(known, rpctypes.ErrAuthOldRevision):
		return fmt.Errorf("%w: %s", datastore.ErrUnauthorized, message(err))
	case errors.Is(known, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %s: compact and defragment etcd, then disarm its alarm", datastore.ErrUnavailable, message(err))
	}
	switch known.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("%w: %s", datastore.ErrUnavailable, message(err))
	}
	return fmt.Errorf("etcd: %s", message(err))
}

// message is the text of an error without gRPC's wrapping.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
