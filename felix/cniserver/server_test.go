package cniserver

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"tortie/internal/control/cniwire"
)

// watchedListener tells when it is closed.
type watchedListener struct {
	net.Listener
	closed chan struct{}
}

func (l watchedListener) Close() error {
	err := l.Listener.Close()
	if err == nil { // the first time only
		close(l.closed)
	}
	return err
}

// listen serves the world's calls on a socket until the returned stop is called;
// when that returns, no call is left.
func (w *world) listen() (socket string, closed chan struct{}, stop func()) {
	w.t.Helper()
	w.stop() // Run has its own releaser
	w.start()
	w.awaitReady()
	socket = filepath.Join(w.t.TempDir(), "s")
	l, err := Listen(socket)
	if err != nil {
		w.t.Fatal(err)
	}
	closed = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Run(ctx, watchedListener{l, closed}) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	return socket, closed, stop
}

func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestServerAnswersOverTheSocket(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		socket, _, stop := w.listen()
		var wg sync.WaitGroup
		for _, container := range []string{"a", "b", "c", "d"} {
			wg.Go(func() {
				var result json.RawMessage
				for _, command := range []string{"ADD", "CHECK", "DEL"} {
					conn, r := dial(t, socket), request(command, container)
					if command == "CHECK" {
						r.Config = told(string(result)).Config
					}
					if err := cniwire.Write(conn, r); err != nil {
						t.Error(err)
					}
					resp, err := cniwire.ReadResponse(conn)
					if err != nil || resp.Error != nil || (command == "ADD") != (len(resp.Result) > 0) {
						t.Errorf("%s: %+v, %v", command, resp, err)
					}
					result = resp.Result
				}
			})
		}
		wg.Wait()
		stop()
		w.wantNothing()
	})(t)
}

func TestServerSurvivesWhatIsNoRequest(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		socket, _, _ := w.listen()
		for _, garbage := range []string{"hello\n", "{}\n", "[]\n", `{"version":1,"plugin":"calico","command":"ADD","config":7}` + "\n", strings.Repeat("x", 4096) + "\n"} {
			conn := dial(t, socket)
			if _, err := conn.Write([]byte(garbage)); err != nil {
				t.Fatal(err)
			}
			resp, err := cniwire.ReadResponse(conn)
			if err != nil || resp.Error == nil || resp.Error.Msg == "" {
				t.Errorf("%.20q: %+v, %v", garbage, resp, err)
			}
		}
		_ = dial(t, socket).Close() // and one that says nothing
		conn := dial(t, socket)
		if err := cniwire.Write(conn, request("STATUS", "")); err != nil {
			t.Fatal(err)
		}
		if resp, err := cniwire.ReadResponse(conn); err != nil || resp.Error != nil {
			t.Errorf("%+v, %v", resp, err)
		}
	})(t)
}

// TestAnswersThatAreTooLong come as errors: without an answer a runtime would try again.
func TestAnswersThatAreTooLong(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		long := strings.Repeat("\"ä", 400_000)
		for name, resp := range map[string]cniwire.Response{
			"error":  {Error: &cniwire.Error{Code: cniwire.CodeInvalidConfig, Msg: long}},
			"result": {Result: []byte(`"` + strings.Repeat("x", cniwire.MaxMessage) + `"`)},
		} {
			felix, plugin := net.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() { w.server.answer(felix, resp); _ = felix.Close() })
			got, err := cniwire.ReadResponse(plugin)
			wg.Wait()
			if err != nil || got.Error == nil || got.Error.Code != cniwire.CodeInvalidConfig || len(got.Error.Msg) > 8192 || strings.Contains(got.Error.Msg, "\ufffd") {
				t.Errorf("%s: %.200v, %v", name, got.Error, err)
			}
			_ = plugin.Close()
		}
	})(t)
}

// block stops the first call that reaches a step until it is let go.
func (w *world) block(step string) (reached chan struct{}, letGo func()) {
	reached, gate := make(chan struct{}), make(chan struct{})
	var first, open sync.Once
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = func(s string) error {
		if s == step {
			first.Do(func() { close(reached); <-gate })
		}
		return nil
	}
	letGo = func() { open.Do(func() { close(gate) }) }
	w.t.Cleanup(letGo)
	return reached, letGo
}

func TestAddIsGivenUpWhenItsRuntimeGoesAway(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		socket, _, stop := w.listen()
		reached, letGo := w.block("wire")
		conn := dial(t, socket)
		if err := cniwire.Write(conn, request("ADD", "c1")); err != nil {
			t.Fatal(err)
		}
		<-reached
		_ = conn.Close()
		// The call learns of it before its next step.
		letGo()
		stop()
		if e, ok := w.journal.Get(idOf(request("", "c1"))); ok && e.State == "adding" {
			t.Errorf("the ADD is neither undone nor done: %+v", e)
		}
		w.ok(request("DEL", "c1"))
		w.wantNothing()
	})(t)
}

// lasting is a context that counts what hangs on it.
type lasting struct {
	context.Context
	children *atomic.Int32
}

func (l lasting) AfterFunc(func()) (stop func() bool) {
	l.children.Add(1)
	return func() bool { l.children.Add(-1); return true }
}

// Value hides that there is a context of package context inside, which would count by itself.
func (l lasting) Value(any) any { return nil }

func TestNothingOfACallOutlivesIt(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		felix := lasting{ctx, new(atomic.Int32)}
		for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
			conn, plugin := net.Pipe()
			_, over := w.server.callContext(felix, conn, command)
			over()
			if n := felix.children.Load(); n != 0 {
				t.Errorf("%s leaves %d contexts", command, n)
			}
			_, _ = conn.Close(), plugin.Close()
		}
	})(t)
}

func TestStoppingLetsCallsFinish(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		socket, closed, stop := w.listen()
		reached, letGo := w.block("wire")
		conn := dial(t, socket)
		if err := cniwire.Write(conn, request("ADD", "c1")); err != nil {
			t.Fatal(err)
		}
		<-reached
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		<-closed
		if _, err := net.Dial("unix", socket); err == nil {
			t.Error("a new call is accepted")
		}
		letGo()
		if resp, err := cniwire.ReadResponse(conn); err != nil || resp.Error != nil {
			t.Errorf("%+v, %v", resp, err)
		}
		<-stopped
		if len(w.devices) != 1 || len(w.routes) != 1 {
			t.Error("the end of felix touched the kernel")
		}
	})(t)
}

func TestDelIsNotKeptWaitingByAdds(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "c1"))
		_, _, _ = w.listen()
		w.server.adds = make(chan struct{}, 1)
		reached, letGo := w.block("wire")
		var wg sync.WaitGroup
		for _, container := range []string{"c2", "c3"} {
			wg.Go(func() { w.call(request("ADD", container)) })
		}
		<-reached
		w.ok(request("DEL", "c1"))
		letGo()
		wg.Wait()
	})(t)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
