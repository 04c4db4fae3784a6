package cniserver

import (
	"sync"

	"tortie/felix/cniserver/netconf"
)

// unread are the keys of network configurations that nobody here knows and that the log
// has named: once each, for a configuration comes with each pod.
type unread struct {
	mu   sync.Mutex
	told map[string]bool // by network and key
}

// maxUnread bounds what is remembered of them.
const maxUnread = 256

// first are those of a network's keys that were not named before.
func (u *unread) first(network string, keys []string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var first []string
	for _, key := range keys {
		name := network + "/" + key
		if u.told[name] || len(u.told) == maxUnread {
			continue
		}
		if u.told == nil {
			u.told = map[string]bool{}
		}
		u.told[name] = true
		first = append(first, key)
	}
	return first
}

// tellUnread names them in the log: standard output is the result's alone.
func (s *Server) tellUnread(conf netconf.Conf) {
	if len(conf.Unread) == 0 {
		return
	}
	if keys := s.unread.first(conf.Name, conf.Unread); len(keys) > 0 {
		s.log.Warn("the network configuration has keys that felix does not know: they change nothing here, and an IPAM plugin of others gets them", "network", conf.Name, "keys", keys)
	}
}
