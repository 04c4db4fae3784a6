package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tortie/bgpd/bfd"
	"tortie/bgpd/bfd/server"
	"tortie/bgpd/frrtest"
	"tortie/internal/kernel/kerneltest"
)

// program runs a daemon in b, and ends it with the test at the latest.
func (w *wire) program(argv ...string) *os.Process {
	w.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr, cmd.Stdout = w.t.Output(), w.t.Output()
	if err := w.ns["b"].Do(cmd.Start); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process
}

// eventually polls another program for what it has to come to.
func (w *wire) eventually(what string, met func() (bool, string)) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		ok, got := met()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("still waiting for %s: %s", what, got)
		}
		time.Sleep(20 * ms)
	}
}

// other is a BFD daemon that isn't ours, in b, with sessions to a.
type other struct {
	process *os.Process
	// configure gives it other intervals: send, receive, multiplier.
	configure func(tx, rx time.Duration, multiplier int)
	// sees waits until it has a session that is up, with our intervals and multiplier.
	sees func(address string, tx, rx time.Duration, multiplier int)
}

func birdConfig(tx, rx time.Duration, multiplier int) string {
	return fmt.Sprintf(`router id 10.99.0.2;
log stderr all;
protocol device {}
protocol bfd {
  interface "wire" { min tx interval %d ms; min rx interval %d ms; multiplier %d; };
  neighbor 10.99.0.1 dev "wire";
  neighbor fd99::1 dev "wire" local fd99::2;
}
`, tx.Milliseconds(), rx.Milliseconds(), multiplier)
}

func startBIRD(w *wire) *other {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(w.t, "the BIRD routing daemon (Debian package bird2)")
	}
	dir := w.t.TempDir()
	conf, ctl := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	write := func(tx, rx time.Duration, multiplier int) {
		if err := os.WriteFile(conf, []byte(birdConfig(tx, rx, multiplier)), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	write(300*ms, 300*ms, 3)
	o := &other{process: w.program("bird", "-f", "-c", conf, "-s", ctl)}
	o.configure = func(tx, rx time.Duration, multiplier int) {
		write(tx, rx, multiplier)
		w.run("b", "birdc", "-s", ctl, "configure")
	}
	o.sees = func(address string, tx, rx time.Duration, multiplier int) {
		// It shows what was negotiated: its interval, and its detection time.
		want := fmt.Sprintf("%.3f %.3f", max(rx, 300*ms).Seconds(), (time.Duration(multiplier) * max(tx, 300*ms)).Seconds())
		w.eventually("BIRD's session", func() (bool, string) {
			out, _ := w.try("b", "birdc", "-s", ctl, "show", "bfd", "sessions")
			for line := range strings.SplitSeq(out, "\n") {
				f := strings.Fields(line)
				if len(f) == 6 && f[0] == address && f[2] == "Up" && f[4]+" "+f[5] == want {
					return true, ""
				}
			}
			return false, out
		})
	}
	return o
}

func startFRR(w *wire) *other {
	f := frrtest.New(w.t, w.ns["b"], "")
	o := &other{process: f.Start("bfdd", "--bfdctl", f.Path("bfdd.ctl"))}
	o.configure = func(tx, rx time.Duration, multiplier int) {
		for _, peer := range []string{"peer 10.99.0.1 interface wire", "peer fd99::1 local-address fd99::2 interface wire"} {
			f.Configure("bfd", peer, fmt.Sprintf("transmit-interval %d", tx.Milliseconds()),
				fmt.Sprintf("receive-interval %d", rx.Milliseconds()), fmt.Sprintf("detect-multiplier %d", multiplier))
		}
	}
	o.configure(300*ms, 300*ms, 3)
	o.sees = func(address string, tx, rx time.Duration, multiplier int) {
		w.eventually("FRR's session", func() (bool, string) {
			out, _ := f.Vtysh("show bfd peers json")
			var peers []struct {
				Peer       string `json:"peer"`
				Status     string `json:"status"`
				Tx         int64  `json:"remote-transmit-interval"`
				Rx         int64  `json:"remote-receive-interval"`
				Multiplier int    `json:"remote-detect-multiplier"`
			}
			_ = json.Unmarshal([]byte(out), &peers) // not yet what we wait for
			for _, p := range peers {
				if p.Peer == address && p.Status == "up" && p.Tx == tx.Milliseconds() && p.Rx == rx.Milliseconds() && p.Multiplier == multiplier {
					return true, ""
				}
			}
			return false, out
		})
	}
	return o
}

// against runs a test against each of the other daemons, in each family.
func against(t *testing.T, test func(t *testing.T, w *wire, o *other, a, b string)) {
	for daemon, start := range map[string]func(*wire) *other{"BIRD": startBIRD, "FRR": startFRR} {
		for family, addr := range families {
			t.Run(daemon+" "+family, func(t *testing.T) {
				t.Parallel()
				w := newWire(t)
				test(t, w, start(w), addr.a, addr.b)
			})
		}
	}
}

func TestSessionWithAnotherDaemonComesUpAndAgreesOnTimers(t *testing.T) {
	against(t, func(_ *testing.T, w *wire, o *other, mine, theirs string) {
		n := w.serve("a", w.peer("a", theirs, fast()))
		n.until(theirs, "up at 300 ms × 3", settled(300*ms, 900*ms))
		o.sees(mine, 300*ms, 300*ms, 3)
	})
}

func TestTimersChangeWithoutALossOfTheSession(t *testing.T) {
	against(t, func(t *testing.T, w *wire, o *other, mine, theirs string) {
		n := w.serve("a", w.peer("a", theirs, fast()))
		n.until(theirs, "up at 300 ms × 3", settled(300*ms, 900*ms))
		n.Set([]server.Peer{w.peer("a", theirs, bfd.Timers{Transmit: 500 * ms, Receive: 400 * ms, Multiplier: 5})})
		n.until(theirs, "at our new timers", settled(500*ms, 1200*ms))
		o.sees(mine, 500*ms, 400*ms, 5)
		o.configure(700*ms, 600*ms, 4)
		if st := n.until(theirs, "at their new timers", settled(600*ms, 2800*ms)); st.Failures != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestDeadDaemonIsFoundWithinASecond(t *testing.T) {
	against(t, func(t *testing.T, w *wire, o *other, mine, theirs string) {
		n := w.serve("a", w.peer("a", theirs, fast()))
		n.until(theirs, "up at 300 ms × 3", settled(300*ms, 900*ms))
		o.sees(mine, 300*ms, 300*ms, 3)
		dead := time.Now()
		if err := o.process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		st := n.until(theirs, "down", isDown)
		if took := time.Since(dead); took >= second || st.Failures != 1 || st.Diag != bfd.DiagExpired {
			t.Errorf("after %s: %+v", took, st)
		} else {
			t.Logf("found dead after %s", took)
		}
	})
}

func TestEndOfOurSessionIsKnownToAnotherDaemon(t *testing.T) {
	against(t, func(_ *testing.T, w *wire, o *other, mine, theirs string) {
		n := w.serve("a", w.peer("a", theirs, fast()))
		n.until(theirs, "up at 300 ms × 3", settled(300*ms, 900*ms))
		o.sees(mine, 300*ms, 300*ms, 3)
		n.Set(nil)
		for len(n.Status()) > 0 {
			<-n.Changed()
		}
		n.Set([]server.Peer{w.peer("a", theirs, fast())}) // which by now may be Down at the peer, or not yet
		n.until(theirs, "up again", settled(300*ms, 900*ms))
		o.sees(mine, 300*ms, 300*ms, 3)
	})
}
