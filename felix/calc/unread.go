package calc

import (
	"errors"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// errUnread is the error of an object that can't be read, which unread reports.
var errUnread = errors.New("can't be read")

// unread collects the objects that can't be read, whether what they said before holds on or
// not, and what is said of each.
type unread map[api.Key]string

// update reports whether something else is to be said.
func (n unread) update(u datastore.SyncUpdate) (changed bool) {
	before := n[u.Key]
	delete(n, u.Key)
	if u.Invalid != nil && reportedHere(u) {
		n[u.Key] = u.Unread()
	}
	return n[u.Key] != before
}

// reportedHere: who follows felix' and IPAM's configuration says more of them; so do the
// endpoints of one of which nothing was ever read.
func reportedHere(u datastore.SyncUpdate) bool {
	switch u.Key.Kind {
	case "", api.KindFelixConfiguration, api.KindIPAMConfig:
		return false
	case api.KindWorkloadEndpoint:
		return u.Kept
	}
	return true
}

func (n unread) report(problems *problemList) {
	for key, text := range n {
		*problems = append(*problems, Problem{Key: key, Reason: text, Unread: true})
	}
}
