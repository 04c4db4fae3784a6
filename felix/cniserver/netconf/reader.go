package netconf

import (
	"bytes"
	"sync"
)

// Reader is Parse with a memory: a node's pods come with one and the same
// configuration, byte for byte, and reading it strictly takes longer than the
// comparison. It is safe for concurrent use; the zero value is ready.
type Reader struct {
	mu   sync.Mutex
	last []reading // the newest first
}

// reading is a configuration that was accepted. Its Conf is shared by all who read
// it and never changed.
type reading struct {
	plugin string
	raw    []byte
	conf   Conf
}

// remembered is how many configurations are kept: one for each network of the node
// and plugin name, and some more.
const remembered = 8

// Parse is [Parse]. What the caller gets may be shared: it must not be changed.
func (r *Reader) Parse(plugin string, raw []byte) (Conf, error) {
	if conf, ok := r.known(plugin, raw); ok {
		return conf, nil
	}
	conf, err := Parse(plugin, raw)
	if err == nil && conf.PrevResult == nil { // with one it is of one pod alone
		r.remember(reading{plugin: plugin, raw: bytes.Clone(raw), conf: conf})
	}
	return conf, err
}

func (r *Reader) known(plugin string, raw []byte) (Conf, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.last {
		if l.plugin == plugin && bytes.Equal(l.raw, raw) {
			return l.conf, true
		}
	}
	return Conf{}, false
}

func (r *Reader) remember(l reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = append([]reading{l}, r.last[:min(len(r.last), remembered-1)]...)
}
