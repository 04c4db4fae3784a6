// Package userspace is WireGuard for a kernel that has none: a process that encrypts
// between a TUN device and UDP. It is felix's own program, run once more, and goes on
// when felix ends: it is configured through a socket, as wg(8) does it, and ends when
// its device is deleted.
package userspace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// Argument is the one by which felix knows that it is to be this process; a device's
// name and its MTU follow.
const Argument = "--wireguard-tun"

// ready is what the process says when its device is there to be configured.
const ready = "ready"

// priority is the process's, from -20 to 19, of which 0 is everybody's.
const priority = -10

// Main is the process: it returns when the device is gone.
func Main(args []string, stdout io.Writer) error {
	// Whoever reads this may be gone.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGINT)
	if len(args) != 2 {
		return fmt.Errorf("%s wants a device's name and its MTU; felix itself runs it", Argument)
	}
	mtu, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("MTU %q: %w", args[1], err)
	}
	// What waits for this process waits in a queue of 500 packets, as the kernel's own
	// encryption never does: it comes before other programs. Where that is not permitted
	// it goes without. Start has made a process group of it, for the threads that are there.
	_ = syscall.Setpriority(syscall.PRIO_PGRP, 0, priority)
	link, err := tun.CreateTUN(args[0], mtu)
	if err != nil {
		return fmt.Errorf("make TUN device %s: %w", args[0], err)
	}
	socket, err := ipc.UAPIOpen(args[0])
	if err != nil {
		return errors.Join(fmt.Errorf("open the socket of %s: %w", args[0], err), link.Close())
	}
	silent := &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf}
	dev := device.NewDevice(summed{link}, conn.NewDefaultBind(), silent)
	defer dev.Close()
	listener, err := ipc.UAPIListen(args[0], socket)
	if err != nil {
		return fmt.Errorf("listen on the socket of %s: %w", args[0], err)
	}
	defer listener.Close()
	_, _ = fmt.Fprintln(stdout, ready)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			c, err := listener.Accept()
			if err != nil {
				return // the socket has been removed: nobody can configure this any more
			}
			go dev.IpcHandle(c)
		}
	}()
	select {
	case <-gone:
	case <-dev.Wait():
	}
	return nil
}

// startTimeout bounds how long a process takes until its device is there.
const startTimeout = 10 * time.Second

// Start runs the process for a device and returns when that can be configured. begin
// starts a command; it decides the network namespace.
func Start(name string, mtu int, begin func(*exec.Cmd) error, log *slog.Logger) error {
	cmd := exec.Command("/proc/self/exe", Argument, name, strconv.Itoa(mtu))
	cmd.Env = []string{} // nothing of felix's secrets
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	said := &firstBytes{}
	cmd.Stdout, cmd.Stderr = in, said
	err = begin(cmd)
	_ = in.Close()
	if err != nil {
		return fmt.Errorf("start the process of %s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_ = out.SetReadDeadline(time.Now().Add(startTimeout))
	answer, err := io.ReadAll(io.LimitReader(out, int64(len(ready))))
	if string(answer) == ready {
		log.Info("WireGuard runs in a process of its own, for the kernel has none: it goes on when felix ends, but not when felix' container does; "+
			"a kernel with WireGuard needs less of the processor", "iface", name, "pid", cmd.Process.Pid)
		go func() {
			err := <-ended
			log.Info("the process of a WireGuard device has ended", "iface", name, "pid", cmd.Process.Pid, "err", err)
		}()
		return nil
	}
	if err != nil {
		_ = cmd.Process.Kill()
	}
	return fmt.Errorf("the process of %s: %w: %s", name, errors.Join(err, <-ended), strings.TrimSpace(said.String()))
}

// firstBytes keeps the beginning of what is written.
type firstBytes struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (f *firstBytes) Write(p []byte) (int, error) {
	const most = 1 << 10
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf.Write(p[:min(len(p), max(0, most-f.buf.Len()))])
	return len(p), nil
}

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.String()
}
