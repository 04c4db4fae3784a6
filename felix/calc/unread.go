package calc

import (
	"errors"
	"strings"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// errUnread is the error of an object that can't be read, which unread reports.
var errUnread = errors.New("can't be read")

// unread collects the objects that can't be read, whether what they said before holds on or
// not, and what is said of each.
type unread struct {
	node  string
	byKey map[api.Key]string
}

// update reports whether something else is to be said.
func (n unread) update(u datastore.SyncUpdate) (changed bool) {
	before := n.byKey[u.Key]
	delete(n.byKey, u.Key)
	if u.Invalid != nil && n.reports(u) {
		n.byKey[u.Key] = u.Unread()
	}
	return n.byKey[u.Key] != before
}

// reports: what is another node's is that node's to report. Who follows felix' and IPAM's
// configuration says more of them; so do the endpoints of one of which nothing was ever read.
func (n unread) reports(u datastore.SyncUpdate) bool {
	switch u.Key.Kind {
	case "", api.KindFelixConfiguration, api.KindIPAMConfig:
		return false
	case api.KindNode:
		return u.Key.Name == n.node
	case api.KindBlockAffinity:
		return strings.HasPrefix(u.Key.Name, api.HostAffinity(n.node).String()+"/")
	case api.KindWorkloadEndpoint:
		return u.Kept
	}
	return true
}

// report adds what is to be said; of blocks only while they matter.
func (n unread) report(blocks bool, problems *problemList) {
	for key, text := range n.byKey {
		if key.Kind != api.KindIPAMBlock || blocks {
			*problems = append(*problems, Problem{Key: key, Reason: text, Unread: true})
		}
	}
}
