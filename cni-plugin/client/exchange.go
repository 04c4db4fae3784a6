package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"tortie/internal/control/cniwire"
)

// The bounds of one call.
const (
	// defaultWait is how long ADD, DEL, CHECK and GC wait for felix's socket, long
	// enough for a felix that is being restarted.
	defaultWait = 2 * time.Second
	// answerTimeout bounds felix's work on a call. felix answers earlier of itself:
	// this is for a felix that hangs.
	answerTimeout = 60 * time.Second
	// retryEvery is the pause between two attempts to connect.
	retryEvery = 20 * time.Millisecond
)

// settings is where felix is and how long to wait for it.
type settings struct {
	socket string
	wait   time.Duration
}

// settingsFrom takes the environment before the network configuration before
// the defaults.
func settingsFrom(getenv func(string) string, conf plugConf) (settings, error) {
	s := settings{socket: cniwire.DefaultSocket, wait: defaultWait}
	if conf.Socket != "" {
		s.socket = conf.Socket
	}
	if v := getenv("CALICO_CNI_SOCKET"); v != "" {
		s.socket = v
	}
	if v := getenv("CALICO_CNI_WAIT"); v != "" {
		wait, err := time.ParseDuration(v)
		if err != nil || wait < 0 {
			return s, fmt.Errorf("CALICO_CNI_WAIT %q: want a duration such as 2s", v)
		}
		s.wait = wait
	}
	return s, nil
}

// exchange sends one request and reads its answer.
func exchange(s settings, req cniwire.Request) (cniwire.Response, *types.Error) {
	if req.Command == "STATUS" {
		s.wait = 0 // it asks whether felix is there now
	}
	conn, err := dial(s)
	if err != nil {
		return cniwire.Response{}, notRunning(s, req.Command, err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(answerTimeout)) // a process of one call has no other clock
	if err := cniwire.Write(conn, req); err != nil {
		return cniwire.Response{}, brokenOff(s, req.Command, err)
	}
	resp, err := cniwire.ReadResponse(conn)
	if err != nil {
		return cniwire.Response{}, brokenOff(s, req.Command, err)
	}
	return resp, nil
}

// dial connects, waiting up to s.wait for a socket that is absent or refuses.
func dial(s settings) (net.Conn, error) {
	addr := &net.UnixAddr{Name: s.socket, Net: "unix"}
	for waited := time.Duration(0); ; waited += retryEvery {
		conn, err := net.DialUnix("unix", nil, addr)
		if err == nil {
			return conn, nil
		}
		if !worthWaiting(err) || waited >= s.wait {
			return nil, err
		}
		time.Sleep(retryEvery) //nolint:forbidigo // a process of one call has nothing else to do
	}
}

// worthWaiting reports whether the socket may appear by itself: absent or stale
// while felix restarts, or its backlog full.
func worthWaiting(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

func notRunning(s settings, command string, err error) *types.Error {
	if errors.Is(err, os.ErrPermission) {
		return types.NewError(types.ErrIOFailure,
			fmt.Sprintf("no permission to open felix's socket %s: run the CNI plugin as root", s.socket), err.Error())
	}
	code := types.ErrTryAgainLater
	if command == "STATUS" {
		code = types.ErrPluginNotAvailable
	}
	return types.NewError(code, fmt.Sprintf("felix is not running on this node: %s (socket %s); check the calico-node pod or the felix service and its log",
		reason(err), s.socket), "")
}

func brokenOff(s settings, command string, err error) *types.Error {
	why := err.Error()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		why = "it closed the connection without an answer"
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = fmt.Sprintf("no answer within %s", answerTimeout)
	case errors.Is(err, cniwire.ErrTooLong):
		return types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("network configuration: longer than %d bytes; shorten it", cniwire.MaxMessage), err.Error())
	}
	code := types.ErrTryAgainLater
	if command == "STATUS" {
		code = types.ErrPluginNotAvailable
	}
	return types.NewError(code, fmt.Sprintf("felix did not finish %s: %s (socket %s); check its log", command, why, s.socket), "")
}

// reason is the errno of a failed connect in words.
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}
