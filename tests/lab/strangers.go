package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"tortie/tests/process"
)

// pinned are network namespaces by what /proc calls them. They are held open: without
// that, the number of one that has ended could by now be that of another.
type pinned struct {
	names map[string]string
	files []*os.File
}

// pin holds the namespaces that processes are in, but for the caller's own.
func pin(ps []Process) pinned {
	out := pinned{names: map[string]string{}}
	own, _ := os.Readlink("/proc/self/ns/net")
	for _, p := range ps {
		f, err := os.Open(p.Netns())
		if err != nil {
			continue // it has ended
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil || ns == own || out.names[ns] != "" || !p.Alive() {
			_ = f.Close()
			continue
		}
		out.names[ns] = p.Name
		out.files = append(out.files, f)
	}
	return out
}

func (p pinned) release() {
	for _, f := range p.files {
		_ = f.Close()
	}
}

// strangers are the processes that live in the namespaces without being known: what a user
// started by `lab exec` or `lab pod exec` and left running.
func (p pinned) strangers(known []Process) []Process {
	ours := map[int]bool{os.Getpid(): true}
	for _, k := range known {
		ours[k.PID] = true
	}
	var found []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		ns, nsErr := os.Readlink(dir + "/ns/net")
		if err != nil || nsErr != nil || ours[pid] || p.names[ns] == "" {
			continue
		}
		if begun, err := process.StartTime(pid); err == nil {
			found = append(found, Process{Name: "process in " + p.names[ns], PID: pid, Start: begun})
		}
	}
	return found
}
