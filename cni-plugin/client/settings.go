package client

import (
	"strconv"

	"tortie/internal/control/cniwire"
)

// Spans of time, in nanoseconds. Package time is not linked.
const (
	millisecond int64 = 1e6
	second      int64 = 1e9
)

// defaultWait is how long ADD, DEL, CHECK and GC wait for felix's socket, long
// enough for a felix that is being restarted. The help names it.
const defaultWait = 2 * second

// settings is where felix is and how long to wait for it.
type settings struct {
	socket string
	wait   int64
}

// settingsFrom takes the environment before the network configuration before
// the defaults.
func settingsFrom(getenv func(string) string, conf plugConf) (settings, *cniwire.Error) {
	s := settings{socket: cniwire.DefaultSocket, wait: defaultWait}
	if conf.socket != "" {
		s.socket = conf.socket
	}
	if v := getenv("CALICO_CNI_SOCKET"); v != "" {
		s.socket = v
	}
	if v := getenv("CALICO_CNI_WAIT"); v != "" {
		wait, ok := parseDuration(v)
		if !ok {
			return s, wrongEnvironment("CALICO_CNI_WAIT " + strconv.Quote(v) + ": want a duration such as 2s")
		}
		s.wait = wait
	}
	return s, nil
}

// parseDuration reads what time.ParseDuration reads, such as 1m30s and 1.5s, but
// nothing negative. A fuzz test compares the two.
func parseDuration(s string) (ns int64, ok bool) {
	if s != "" && s[0] == '+' {
		s = s[1:]
	}
	if s == "0" {
		return 0, true
	}
	total := 0.0
	for ok = s != ""; ok && s != ""; {
		end := 0
		for end < len(s) && inNumber(s[end]) {
			end++
		}
		number, err := strconv.ParseFloat(s[:end], 64)
		s = s[end:]
		for end = 0; end < len(s) && !inNumber(s[end]); {
			end++
		}
		unit := unitOf(s[:end])
		s = s[end:]
		total += number * unit
		ok = err == nil && unit > 0 && total < 1<<62
	}
	return int64(total), ok
}

func inNumber(c byte) bool { return c == '.' || '0' <= c && c <= '9' }

// unitOf is a unit in nanoseconds, 0 for none.
func unitOf(name string) float64 {
	switch name {
	case "ns":
		return 1
	case "us", "µs", "μs":
		return 1e3
	case "ms":
		return 1e6
	case "s":
		return 1e9
	case "m":
		return 60e9
	case "h":
		return 3600e9
	}
	return 0
}
