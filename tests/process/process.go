// Package process tells processes apart that had the same number one after another.
package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// StartTime is when a process started, in clock ticks since boot (field 22 of
// /proc/PID/stat): together with its number it is the process's alone. An error
// means that there is none; a zombie counts as none, unless threads of it still run and
// hold what it held.
func StartTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The command name in parentheses may hold anything; fields count from behind it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const threads = 17
	if len(fields) < 20 || fields[0] == "Z" && fields[threads] == "1" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
