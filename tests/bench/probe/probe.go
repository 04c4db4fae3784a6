// Package probe looks at processes from outside: what they use, and what the kernel has of
// their routes.
package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// patience is how long anything may take; glance how often one looks.
const (
	patience = 2 * time.Minute
	glance   = 20 * time.Millisecond
)

// Until looks again and again until something is done.
func Until(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(glance):
		}
	}
}

// Resting waits until a process has used no processor for a while.
func Resting(ctx context.Context, pid int) error {
	last, quiet := time.Duration(-1), 0
	return Until(ctx, func() (bool, error) {
		now, err := CPU(pid)
		if quiet++; now-last > 0 {
			quiet = 0
		}
		last = now
		return quiet >= 25, err
	})
}

// Routes is how many IPv4 routes the main table has in the namespace of a process. Where
// the kernel has one table for main and local, those of the node's addresses are among them.
func Routes(pid int) (int, error) { return routesIn(fmt.Sprintf("/proc/%d/net/fib_triestat", pid)) }

// RoutesHere is Routes in the namespace of the calling thread.
func RoutesHere() (int, error) { return routesIn("/proc/thread-self/net/fib_triestat") }

func routesIn(file string) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	inMain := false
	for s := bufio.NewScanner(f); s.Scan(); {
		switch name, value, _ := strings.Cut(strings.TrimSpace(s.Text()), ":"); {
		case name == "Main" || name == "Local":
			inMain = name == "Main"
		case name == "Prefixes" && inMain:
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, nil
}

// HasBIRD says what to do when BIRD 2 is missing, beside which bgpd is measured.
func HasBIRD() error {
	for _, program := range []string{"bird", "birdc"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("the program %s is missing: install the package bird2, as `make bench` does", program)
		}
	}
	return nil
}

// tickLength is that of USER_HZ, which is 100 on every Linux of today.
const tickLength = 10 * time.Millisecond

// CPU is the processor time of a process.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, io.ErrUnexpectedEOF)
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tickLength, errors.Join(err, err2)
}

// Peak is the resident memory of a process when it was greatest.
func Peak(pid int) (int, error) { return memory(pid, "VmHWM:") }

// Resident is the resident memory of a process.
func Resident(pid int) (int, error) { return memory(pid, "VmRSS:") }

// memory is a line of /proc/PID/status in bytes.
func memory(pid int, line string) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), line)
	kilobytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(kilobytes)
	return n << 10, err
}
