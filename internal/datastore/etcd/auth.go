package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// authenticator attaches etcd's token to every call and logs in when etcd asks
// for it. clientv3 can do that too, but logs in inside its constructor, which
// then needs a reachable etcd, and again for every stream, which costs etcd a
// password hash each.
type authenticator struct {
	username, password string
	rpc                pb.AuthClient // set once before the first call

	loginMu sync.Mutex // held during a login, so that there is one at a time

	mu     sync.Mutex
	token  string
	logins int // how many logins the token is the result of
}

func newAuthenticator(username, password string) *authenticator {
	return &authenticator{username: username, password: password}
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (a *authenticator) RequireTransportSecurity() bool { return false }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (a *authenticator) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, _ := a.current()
	if token == "" {
		return nil, nil
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: token}, nil
}

func (a *authenticator) current() (token string, logins int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token, a.logins
}

// stale reports whether err means that a login may help.
func (a *authenticator) stale(err error) bool {
	if a.username == "" {
		return false
	}
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrUserEmpty) ||
		errors.Is(err, rpctypes.ErrInvalidAuthToken) ||
		errors.Is(err, rpctypes.ErrAuthOldRevision)
}

// unary is a client interceptor that logs in and repeats the call when etcd
// doesn't know the token. It must be inside clientv3's own, which would repeat
// such a call a hundred times with the same token.
func (a *authenticator) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error { //nolint:revive // grpc.UnaryClientInterceptor's signature
	err := invoke(ctx, method, req, reply, cc, opts...)
	if !a.stale(err) || method == pb.Auth_Authenticate_FullMethodName {
		return err
	}
	if err := a.login(ctx); err != nil {
		return err
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// login gets a new token. Calls that come while one is under way share it.
func (a *authenticator) login(ctx context.Context) error {
	_, before := a.current()
	a.loginMu.Lock()
	defer a.loginMu.Unlock()
	if _, logins := a.current(); logins != before {
		return nil
	}
	req := &pb.AuthenticateRequest{Name: a.username, Password: a.password}
	resp, err := a.rpc.Authenticate(ctx, req, grpc.WaitForReady(true))
	if errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
		resp, err = &pb.AuthenticateResponse{}, nil
	}
	if err != nil {
		return fmt.Errorf("log in as %q: %w", a.username, rpctypes.Error(err))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = resp.GetToken()
	a.logins++
	return nil
}
