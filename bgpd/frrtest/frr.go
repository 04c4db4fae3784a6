// Package frrtest runs the daemons of FRR (Debian package frr) in a network namespace, for
// tests against them.
package frrtest

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/polltest"
)

const (
	programs = "/usr/lib/frr/"
	zebra    = "zebra"
	patience = 60 * time.Second
)

// FRR is zebra, and other daemons with one configuration.
type FRR struct {
	t   testing.TB
	ns  *kernel.Netns
	dir string
	run map[string]*exec.Cmd
}

// New starts zebra; conf is for the others. What is started is killed with the test at the latest.
func New(t testing.TB, ns *kernel.Netns, conf string) *FRR {
	t.Helper()
	if _, err := os.Stat(programs + zebra); err != nil {
		kerneltest.Require(t, "the FRR routing daemons (Debian package frr)")
	}
	f := &FRR{t: t, ns: ns, dir: t.TempDir(), run: map[string]*exec.Cmd{}}
	owner, err := user.Lookup("frr")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	// FRR's daemons give up being root before they open their sockets.
	err = errors.Join(os.Chown(f.dir, uid, gid), os.Chmod(filepath.Dir(f.dir), 0o755),
		os.WriteFile(f.Path("conf"), []byte("log stdout\n"+conf), 0o644),
		// FRR 8.4 does not put a next hop back into the kernel's groups when its link comes back.
		os.WriteFile(f.Path(zebra+".conf"), []byte("log stdout\nno zebra nexthop kernel enable\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	// It keeps the routes of a bgpd that restarts.
	f.start(zebra, "-K", "120", "-e", "64")
	polltest.Until(t, patience, "zebra", func() (bool, string) { _, err := os.Stat(f.Path("zebra.sock")); return err == nil, "no socket" })
	return f
}

// Path is a file that the daemons may write.
func (f *FRR) Path(name string) string { return filepath.Join(f.dir, name) }

// Start starts another daemon, and waits until it answers.
func (f *FRR) Start(name string, more ...string) *os.Process {
	f.t.Helper()
	p := f.start(name, more...)
	polltest.Until(f.t, patience, name+" of FRR", func() (bool, string) {
		out, err := f.exec("vtysh", "--vty_socket", f.dir, "-d", name, "-c", "show version")
		return err == nil, out
	})
	return p
}

func (f *FRR) start(name string, more ...string) *os.Process {
	f.t.Helper()
	conf := f.Path("conf")
	if name == zebra {
		conf = f.Path(zebra + ".conf")
	}
	cmd := exec.Command(programs+name, append([]string{
		"-f", conf, "-i", f.Path(name + ".pid"), "-z", f.Path("zebra.sock"), "--vty_socket", f.dir, "-P", "0",
	}, more...)...)
	cmd.Stderr, cmd.Stdout = f.t.Output(), f.t.Output()
	if err := f.ns.Do(cmd.Start); err != nil {
		f.t.Fatal(err)
	}
	f.run[name] = cmd
	f.t.Cleanup(func() { f.Kill(name) })
	return cmd.Process
}

// Kill ends a daemon as a crash does.
func (f *FRR) Kill(name string) {
	if cmd := f.run[name]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		delete(f.run, name)
	}
}

// Vtysh gives commands to the daemons, in order.
func (f *FRR) Vtysh(commands ...string) (string, error) {
	argv := []string{"vtysh", "--vty_socket", f.dir}
	for _, c := range commands {
		argv = append(argv, "-c", c)
	}
	return f.exec(argv...)
}

// Configure is Vtysh in the configuration.
func (f *FRR) Configure(commands ...string) {
	f.t.Helper()
	if out, err := f.Vtysh(append([]string{"configure terminal"}, commands...)...); err != nil {
		f.t.Fatalf("configure FRR: %v: %s", err, out)
	}
}

func (f *FRR) exec(argv ...string) (string, error) {
	var out []byte
	err := f.ns.Do(func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	return string(out), err
}
