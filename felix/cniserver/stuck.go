package cniserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tortie/felix/journal"
	"tortie/internal/control/cniwire"
)

// pluginRetryMax is the longest pause between two tries to have an IPAM plugin of others
// release an address: what keeps it from that is mended by an operator, who calls again.
const pluginRetryMax = 2 * time.Minute

// pluginError is the failure of an IPAM plugin of others to release an address.
type pluginError struct {
	plugin string
	err    error
}

// Error is the plugin's, or that there is none.
func (e *pluginError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *pluginError) Unwrap() error { return e.err }

// pluginAdvice is what to do about one.
const pluginAdvice = "put the plugin back, or mend it; if it is gone for good, name another as ipam.type: the next DEL or ADD of the container then drops felix's record"

// waiting is the answer to a call that must wait for the end of an earlier attachment.
func waiting(id journal.ID, err error) *cniwire.Error {
	e := &cniwire.Error{Code: cniwire.CodeTryAgainLater, Msg: "the address of the previous attachment of " + id.String() + " is still being released"}
	if err != nil {
		e.Msg += ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	if _, plugins := errors.AsType[*pluginError](err); plugins {
		e.Details = pluginAdvice
	} else {
		e.Msg += "; try again"
	}
	return e
}

// givenUp is an entry as a call leaves it that names another IPAM plugin than the one which
// assigned the address: should that one be gone, nobody wants it back.
func (c call) givenUp(e journal.Entry) (journal.Entry, bool) {
	if e.IPAM == nil || e.IPAM.GivenUp || c.plugin != e.Plugin || c.ipamType == "" || c.ipamType == e.IPAM.Type {
		return e, false
	}
	p := *e.IPAM
	p.GivenUp = true
	e.IPAM = &p
	return e, true
}

// giveUp notes it in the release that an ADD is going to wait for.
func (s *Server) giveUp(c call) error {
	e, ok := s.journal.Get(c.id)
	if !ok || e.State != journal.StateReleasing {
		return nil
	}
	if e, ok = c.givenUp(e); !ok {
		return nil
	}
	return s.releaser.take(e)
}

// StuckReleases has a line for each IPAM plugin of others that does not release addresses,
// by its name.
func (s *Server) StuckReleases() map[string]string {
	const most = 3
	lines := map[string]string{}
	for plugin, stuck := range s.releaser.stuck() {
		slices.Sort(stuck.ids)
		named := strings.Join(stuck.ids[:min(most, len(stuck.ids))], ", ")
		if more := len(stuck.ids) - most; more > 0 {
			named += fmt.Sprintf(" and %d more", more)
		}
		lines[plugin] = fmt.Sprintf("addresses can't be released, and their containers not be attached again (%s): %v: %s", named, stuck.err, pluginAdvice)
	}
	return lines
}

// stuckReleases are those that one plugin holds up.
type stuckReleases struct {
	ids []string
	err error // one of theirs
}

func (r *releaser) stuck() map[string]*stuckReleases {
	found := map[string]*stuckReleases{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, p := range r.pending {
		failure, ok := errors.AsType[*pluginError](p.failure)
		if !ok {
			continue
		}
		if found[failure.plugin] == nil {
			found[failure.plugin] = &stuckReleases{err: failure.err}
		}
		found[failure.plugin].ids = append(found[failure.plugin].ids, id.String())
	}
	return found
}
