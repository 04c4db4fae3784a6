// Package onepeer measures what it costs to bring the routes of one BGP peer into the
// kernel: for bgpd, and for BIRD 2 doing the same job.
//
// The peer is a BIRD that announces its static routes when it is told to, over a session
// that is up already. What is measured begins with that and ends when the kernel has
// them all. bgpd is its engine with a fixed configuration, without a datastore.
package onepeer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tortie/bgpd/daemon"
	"tortie/bgpd/speaker"
	"tortie/internal/kernel"
	"tortie/tests/bench/probe"
)

// The two ends of the wire.
const (
	senderAddress   = "192.0.2.1"
	receiverAddress = "192.0.2.2"
	asn             = 64512
)

// Receiver brings routes from the peer into the kernel.
type Receiver struct {
	Name string
	// command is the program, for a folder of its own.
	command func(ctx context.Context, dir string) (*exec.Cmd, error)
	// routes counts those it has brought to their place: into the kernel, if it is nil.
	routes func(pid int, dir string) (int, error)
}

func (r Receiver) count(pid int, dir string) (int, error) {
	if r.routes != nil {
		return r.routes(pid, dir)
	}
	return probe.Routes(pid)
}

// BGPD is ours. The program is this one, which runs ServeBGPD when it is called with arg.
func BGPD(arg string) Receiver {
	return Receiver{Name: "bgpd", command: func(ctx context.Context, _ string) (*exec.Cmd, error) {
		self, err := os.Executable()
		return exec.CommandContext(ctx, self, arg), err
	}}
}

// ServeBGPD is the body of the program that [BGPD] starts.
func ServeBGPD(ctx context.Context) error {
	local, peer := netip.MustParseAddr(receiverAddress), netip.MustParseAddr(senderAddress)
	return daemon.RunStatic(ctx, daemon.Static{
		Name:   "onepeer",
		Global: speaker.Global{ASN: asn, RouterID: local, Listen: []netip.Addr{local}, Port: 179},
		Peers:  []speaker.Peer{{Address: peer, ASN: asn + 1, RestartTime: time.Minute}},
		Log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// BIRD is BIRD 2, of Debian.
func BIRD() Receiver {
	return Receiver{Name: "BIRD 2", command: func(ctx context.Context, dir string) (*exec.Cmd, error) {
		return bird(ctx, dir, "receiver", `
protocol kernel { scan time 3600; ipv4 { import none; export all; }; }
protocol bgp session1 {
  local `+receiverAddress+` as 64512; neighbor `+senderAddress+` as 64513; graceful restart on; connect delay time 1;
  ipv4 { import all; export none; };
}
`)
	}}
}

func bird(ctx context.Context, dir, name, conf string) (*exec.Cmd, error) {
	id := receiverAddress
	if name == "sender" {
		id = senderAddress
	}
	path := filepath.Join(dir, name+".conf")
	err := os.WriteFile(path, []byte("router id "+id+";\nprotocol device {}\n"+conf), 0o600)
	return exec.CommandContext(ctx, "bird", "-f", "-c", path, "-s", filepath.Join(dir, name+".ctl")), err
}

// Result is what a receiver has used.
type Result struct {
	Wall, CPU time.Duration
	// Withdrawn is the time it took to take all routes away again.
	Withdrawn time.Duration
	Peak      int // resident memory at its greatest, bytes
}

// wire is a sender and a namespace for receivers.
type wire struct {
	dir              string
	sender, receiver *kernel.Netns
	bird             *exec.Cmd
}

// Measure has each receiver in turn take n routes.
func Measure(ctx context.Context, n int, receivers ...Receiver) ([]Result, error) {
	var out []Result
	for _, r := range receivers {
		result, err := measure(ctx, n, r)
		if err != nil {
			return nil, fmt.Errorf("measure %s with %d routes: %w", r.Name, n, err)
		}
		out = append(out, result)
	}
	return out, nil
}

func measure(ctx context.Context, n int, r Receiver) (res Result, err error) {
	w, err := newWire(ctx, n)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	cmd, err := r.command(ctx, w.dir)
	if err != nil {
		return res, err
	}
	log, err := os.Create(filepath.Join(w.dir, "receiver.log"))
	if err != nil {
		return res, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := w.receiver.Do(cmd.Start); err != nil {
		return res, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}()
	pid := cmd.Process.Pid
	count := func() (int, error) { return r.count(pid, w.dir) }
	if err := probe.Until(ctx, func() (bool, error) {
		text, err := w.tell("show", "protocols", "session1")
		return strings.Contains(text, "Established"), err
	}); err != nil {
		text, _ := os.ReadFile(log.Name())
		return res, fmt.Errorf("wait for the session: %w: %s", err, text)
	}
	before, err := probe.CPU(pid)
	if err != nil {
		return res, err
	}
	if res.Wall, err = w.change(ctx, "enable", count, func(have int) bool { return have >= n }); err != nil {
		return res, err
	}
	if err := probe.Resting(ctx, pid); err != nil {
		return res, err
	}
	after, err := probe.CPU(pid)
	if err != nil {
		return res, err
	}
	res.CPU = after - before
	if res.Peak, err = probe.Peak(pid); err != nil {
		return res, err
	}
	res.Withdrawn, err = w.change(ctx, "disable", count, func(have int) bool { return have < 10 })
	return res, err
}

// change has the peer announce or withdraw its routes and returns when the kernel has
// as many as is right.
func (w *wire) change(ctx context.Context, verb string, count func() (int, error), right func(have int) bool) (time.Duration, error) {
	began := time.Now()
	if _, err := w.tell(verb, "many"); err != nil {
		return 0, err
	}
	err := probe.Until(ctx, func() (bool, error) {
		have, err := count()
		return right(have), err
	})
	return time.Since(began), err
}

func newWire(ctx context.Context, n int) (w *wire, err error) {
	w = &wire{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "tortie-onepeer"); err != nil {
		return w, err
	}
	if w.sender, err = kernel.CreateNetns(); err != nil {
		return w, err
	}
	if w.receiver, err = kernel.CreateNetns(); err != nil {
		return w, err
	}
	if err := w.connect(); err != nil {
		return w, err
	}
	conf := &strings.Builder{}
	fmt.Fprint(conf, "protocol static many { disabled; ipv4;\n")
	for i := range n {
		fmt.Fprintf(conf, "route %s blackhole;\n", Prefix(i))
	}
	fmt.Fprint(conf, `}
protocol bgp session1 {
  local `+senderAddress+` as 64513; neighbor `+receiverAddress+` as 64512; graceful restart on; connect delay time 1;
  ipv4 { import none; export all; };
}
`)
	if w.bird, err = bird(ctx, w.dir, "sender", conf.String()); err != nil {
		return w, err
	}
	w.bird.Stderr = os.Stderr
	return w, w.sender.Do(w.bird.Start)
}

// Prefix is the i-th route, a /28 in 10.0.0.0/8.
func Prefix(i int) netip.Prefix {
	a := uint32(10)<<24 | uint32(i)<<4
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), 28)
}

// connect joins the two namespaces by a veth.
func (w *wire) connect() error {
	near, err := w.sender.Open()
	if err != nil {
		return err
	}
	defer near.Close()
	far, err := w.receiver.Open()
	if err != nil {
		return err
	}
	defer far.Close()
	link, err := near.CreateVeth(kernel.VethSpec{Host: "eth0", Peer: "eth0", PeerNetns: w.receiver})
	if err != nil {
		return err
	}
	return errors.Join(
		far.SetUp(link.PeerIndex),
		near.AddAddress(link.Index, netip.MustParsePrefix(senderAddress+"/24")),
		far.AddAddress(link.PeerIndex, netip.MustParsePrefix(receiverAddress+"/24")))
}

func (w *wire) close() error {
	if w.bird != nil && w.bird.Process != nil {
		_ = w.bird.Process.Kill()
		_ = w.bird.Wait() // it was killed
	}
	for _, ns := range []*kernel.Netns{w.sender, w.receiver} {
		if ns != nil {
			ns.Close()
		}
	}
	return os.RemoveAll(w.dir)
}

// tell gives the sender a command.
func (w *wire) tell(words ...string) (string, error) {
	out, err := exec.Command("birdc", append([]string{"-s", filepath.Join(w.dir, "sender.ctl")}, words...)...).CombinedOutput()
	if err != nil && strings.Contains(string(out), "Unable to connect") {
		return "", nil // it is not that far yet
	}
	return string(out), err
}
