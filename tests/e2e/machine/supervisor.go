package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// respawn is how long a service that ended by itself waits for its next start.
const respawn = time.Second

// patience is how long a service that is told to stop may take.
const patience = 10 * time.Second

// request tells the supervisor to do one thing.
type request struct {
	// Start is started, or started anew when it runs.
	Start *Service `json:"start,omitempty"`
	// Stop is the name of the service to stop, with SIGKILL when Kill says so.
	Stop string `json:"stop,omitempty"`
	Kill bool   `json:"kill,omitempty"`
}

type response struct {
	Err string `json:"err,omitempty"`
	// Services are those that run, with their process IDs on the machine.
	Services map[string]int `json:"services,omitempty"`
}

// supervisor keeps services running.
type supervisor struct {
	ctx     context.Context
	command func(Service) *exec.Cmd

	mu      sync.Mutex
	running map[string]*running
}

// running is one service; its fields but spec are guarded by the supervisor's mu.
type running struct {
	spec    Service
	process *os.Process
	stopped bool
	ended   chan struct{}
}

func newSupervisor(ctx context.Context, command func(Service) *exec.Cmd) *supervisor {
	return &supervisor{ctx: ctx, command: command, running: map[string]*running{}}
}

func (s *supervisor) start(spec Service) {
	r := &running{spec: spec, ended: make(chan struct{})}
	s.mu.Lock()
	s.running[spec.Name] = r
	s.mu.Unlock()
	go s.keep(r)
}

// keep runs a service again and again until it is stopped.
func (s *supervisor) keep(r *running) {
	defer close(r.ended)
	for {
		cmd := s.command(r.spec)
		s.mu.Lock()
		if r.stopped {
			s.mu.Unlock()
			return
		}
		err := cmd.Start()
		r.process = cmd.Process
		s.mu.Unlock()
		if err == nil {
			err = cmd.Wait()
		}
		if f, ok := cmd.Stdout.(*os.File); ok {
			_, _ = fmt.Fprintf(f, "machine: %s ended: %v\n", r.spec.Name, err)
			_ = f.Close()
		}
		s.mu.Lock()
		stopped := r.stopped
		r.process = nil
		s.mu.Unlock()
		if stopped {
			return
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(respawn):
		}
	}
}

func (s *supervisor) stop(name string, kill bool) error {
	s.mu.Lock()
	r := s.running[name]
	delete(s.running, name)
	if r == nil {
		s.mu.Unlock()
		return fmt.Errorf("no service %q runs", name)
	}
	r.stopped = true
	signal := syscall.SIGTERM
	if kill {
		signal = syscall.SIGKILL
	}
	if r.process != nil {
		_ = r.process.Signal(signal)
	}
	s.mu.Unlock()
	select {
	case <-r.ended:
		return nil
	case <-time.After(patience):
	}
	s.mu.Lock()
	if r.process != nil {
		_ = r.process.Kill()
	}
	s.mu.Unlock()
	<-r.ended
	return nil
}

func (s *supervisor) do(req request) response {
	var err error
	switch {
	case req.Start != nil:
		if s.has(req.Start.Name) {
			err = s.stop(req.Start.Name, req.Kill)
		}
		s.start(*req.Start)
	case req.Stop != "":
		err = s.stop(req.Stop, req.Kill)
	}
	resp := response{Services: s.pids()}
	if err != nil {
		resp.Err = err.Error()
	}
	return resp
}

func (s *supervisor) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[name] != nil
}

func (s *supervisor) pids() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	pids := map[string]int{}
	for name, r := range s.running {
		pids[name] = 0
		if r.process != nil {
			pids[name] = r.process.Pid
		}
	}
	return pids
}

// serve answers requests until ctx ends. That the socket is there says that the
// machine is up.
func (s *supervisor) serve(path string) error {
	// It gets its name when it listens, for whoever sees it connects at once.
	unnamed := path + ".new"
	if err := os.Remove(unnamed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: unnamed, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Rename(unnamed, path); err != nil {
		return err
	}
	defer context.AfterFunc(s.ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if s.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			var req request
			if json.NewDecoder(conn).Decode(&req) == nil {
				_ = json.NewEncoder(conn).Encode(s.do(req))
			}
		}()
	}
}
