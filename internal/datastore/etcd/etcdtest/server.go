// Package etcdtest runs a real etcd for tests: in a process of its own, so that
// it can be killed, stopped and restarted, but from the test binary itself, so
// that nothing needs to be installed.
//
// A test package that uses it has
//
//	func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }
package etcdtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"tortie/internal/datastore"
)

// TLS is how the server secures its client port.
type TLS struct {
	CertFile, KeyFile string
	// ClientCAFile makes client certificates signed by it mandatory.
	ClientCAFile string
}

// Options changes how a server runs.
type Options struct {
	TLS *TLS
}

// Server is one etcd with one member.
type Server struct {
	t   testing.TB
	cfg childConfig
	cmd *exec.Cmd
	in  io.Closer // closing it makes the child exit
}

// Start runs a new, empty etcd until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	s := &Server{t: t, cfg: childConfig{
		Dir:       filepath.Join(t.TempDir(), "data"),
		ClientURL: fmt.Sprintf("%s://%s", scheme, freePort(t)),
		PeerURL:   "http://" + freePort(t),
		TLS:       o.TLS,
	}}
	t.Cleanup(s.Kill)
	s.Restart()
	return s
}

// Endpoint is the URL of the client port. It stays the same over restarts.
func (s *Server) Endpoint() string { return s.cfg.ClientURL }

// Config is how to reach the server without TLS or authentication.
func (s *Server) Config() datastore.Config {
	return datastore.Config{Endpoints: []string{s.Endpoint()}}
}

// Restart starts the server again with what its data directory holds, and
// returns when it serves.
func (s *Server) Restart() {
	s.t.Helper()
	text, err := json.Marshal(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd, s.in = cmd, in
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != childReady {
		s.t.Fatalf("etcd doesn't start: %q, %v", line, err)
	}
}

// Kill ends the server as kill -9 does. It is harmless when it isn't running.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // fails only if it is gone
	_ = s.cmd.Wait()         // reports the signal
	_ = s.in.Close()
	s.cmd = nil
}

// Freeze stops the process as if it hung; Thaw lets it go on.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Backup copies the data directory; Kill first.
func (s *Server) Backup() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "backup")
	if err := os.CopyFS(dir, os.DirFS(s.cfg.Dir)); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// Restore replaces the data directory by a backup, or by nothing when backup is
// empty; Kill first.
func (s *Server) Restore(backup string) {
	s.t.Helper()
	if err := os.RemoveAll(s.cfg.Dir); err != nil {
		s.t.Fatal(err)
	}
	if backup == "" {
		return
	}
	if err := os.CopyFS(s.cfg.Dir, os.DirFS(backup)); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(s.cfg.Dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// Bare is a plain etcd client, for what the datastore's own must not do.
func (s *Server) Bare(ctx context.Context) *clientv3.Client {
	s.t.Helper()
	c, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{s.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Compact forgets the history before rev.
func (s *Server) Compact(c *clientv3.Client, rev datastore.Revision) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Compact(ctx, int64(rev)); err != nil {
		s.t.Fatal(err)
	}
}

// EnableAuth makes the server demand a user: root, and the one given, who may
// read and write below prefix.
func (s *Server) EnableAuth(c *clientv3.Client, user, password, prefix string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	steps := []func() error{
		func() error { _, err := c.RoleAdd(ctx, "calico"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "calico", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, user, password); return err },
		func() error { _, err := c.UserGrantRole(ctx, user, "calico"); return err },
		func() error { _, err := c.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// freePort finds a free port of the loopback interface.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
