package netconf

import (
	"bytes"
	"encoding/json"
	"sync"

	"tortie/internal/rawjson"
)

// Reader is Parse with a memory: a node's pods come with one and the same
// configuration, byte for byte but for what the runtime says of the container
// (runtimeConfig), and reading it strictly takes longer than the comparison. It is safe
// for concurrent use; the zero value is ready.
type Reader struct {
	mu   sync.Mutex
	last []reading // the newest first
}

// reading is a configuration that was accepted. Its Conf is shared by all who read
// it and never changed.
type reading struct {
	plugin string
	// head and tail are the configuration around the value of runtimeConfig; without
	// that, head is all of it and tail is empty.
	head, tail []byte
	doc        document
	conf       Conf
}

// remembered is how many configurations are kept: one for each network of the node
// and plugin name, and some more.
const remembered = 8

// Parse is [Parse]. What the caller gets may be shared: it must not be changed.
func (r *Reader) Parse(plugin string, raw []byte) (Conf, error) {
	if conf, ok := r.known(plugin, raw); ok {
		return conf, nil
	}
	doc, conf, err := parse(plugin, raw)
	ofOnePod := conf.PrevResult != nil || plugin == IPAMCalico && len(conf.Addrs) > 0
	if err == nil && !ofOnePod {
		head, tail := around(plugin, raw)
		r.remember(reading{plugin: plugin, head: bytes.Clone(head), tail: bytes.Clone(tail), doc: doc, conf: conf})
	}
	return conf, err
}

// around is a valid configuration less the value of runtimeConfig. calico-ipam's is
// remembered whole: it is rare, and all that it takes from there is of one pod.
func around(plugin string, raw []byte) (head, tail []byte) {
	doc, err := rawjson.Parse(raw)
	if err != nil || plugin == IPAMCalico {
		return raw, nil
	}
	var found []rawjson.Value
	for _, m := range doc.Members() {
		if m.Name == runtimeKey {
			found = append(found, m.Value)
		}
	}
	if len(found) != 1 { // of several the last would hold
		return raw, nil
	}
	value := found[0].Raw()
	rest := cap(raw) - cap(value) // where it stands, as a part of raw
	if rest < 0 || !bytes.HasPrefix(raw[rest:], value) {
		return raw, nil
	}
	return raw[:rest], raw[rest+len(value):]
}

const runtimeKey = "runtimeConfig"

func (r *Reader) known(plugin string, raw []byte) (Conf, bool) {
	r.mu.Lock()
	last := r.last // never changed, only replaced
	r.mu.Unlock()
	for _, l := range last {
		if l.plugin == plugin {
			if conf, ok := l.read(raw); ok {
				return conf, true
			}
		}
	}
	return Conf{}, false
}

// read is the Conf of a configuration that differs from the one that was read in what
// the runtime says at most. What is wrong with that is left to Parse to say.
func (l reading) read(raw []byte) (Conf, bool) {
	if len(l.tail) == 0 {
		return l.conf, bytes.Equal(l.head, raw)
	}
	if len(raw) <= len(l.head)+len(l.tail) || !bytes.HasPrefix(raw, l.head) || !bytes.HasSuffix(raw, l.tail) {
		return Conf{}, false
	}
	// Only one value of JSON makes the whole what the one was that was read.
	doc, conf := l.doc, l.conf
	doc.Runtime = runtimeConfig{}
	if json.Unmarshal(raw[len(l.head):len(raw)-len(l.tail)], &doc.Runtime) != nil || doc.ofContainer(&conf) != nil {
		return Conf{}, false
	}
	return conf, true
}

func (r *Reader) remember(l reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = append([]reading{l}, r.last[:min(len(r.last), remembered-1)]...)
}
