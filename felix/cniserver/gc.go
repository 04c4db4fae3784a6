package cniserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// gc carries out GC: attachments to this network on this node that are not in
// the runtime's list are released. It goes on past failures and reports them
// all. Attachments whose ADD began after the list was made are left alone.
func (s *Server) gc(ctx context.Context, c call) error {
	started := s.now()
	if err := s.Ready(); err != nil {
		return err // what is in the datastore alone can't be told
	}
	valid := map[journal.ID]bool{}
	for _, a := range c.valid {
		valid[journal.ID{Network: c.conf.Name, ContainerID: a.ContainerID, IfName: a.IfName}] = true
	}
	var failed []error
	for _, e := range s.journal.Entries() {
		if e.Network != c.conf.Name || e.Plugin != c.plugin || valid[e.ID] || e.State == journal.StateReleasing || e.Since.After(started) {
			continue
		}
		failed = append(failed, s.collect(ctx, c, e))
	}
	orphans, err := s.orphans(ctx, c, valid)
	failed = append(failed, err)
	for _, e := range orphans {
		failed = append(failed, s.collect(ctx, c, e))
	}
	return all(append(failed, s.forward(ctx, c)))
}

// all is what failed: nil, one error, or several.
func all(failed []error) error {
	failed = slices.DeleteFunc(failed, func(err error) bool { return err == nil })
	if len(failed) < 2 {
		return errors.Join(failed...)
	}
	return &severalError{failed}
}

// collect releases one attachment as DEL does.
func (s *Server) collect(ctx context.Context, c call, e journal.Entry) error {
	unlock, err := s.lockEndpoint(ctx, lockKeyOf(e), e.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if now, ok := s.journal.Get(e.ID); ok && (now.State != e.State || !now.Since.Equal(e.Since)) {
		return nil // it moved on while we waited
	}
	s.log.Info("releasing an attachment that the runtime does not know any more", "attachment", e.String())
	e, _ = c.givenUp(e)
	return s.release(ctx, e)
}

// orphans are attachments that the journal doesn't know: made by upstream's
// plugin, or before the journal was lost. They are found by the handles of
// addresses on this node.
func (s *Server) orphans(ctx context.Context, c call, valid map[journal.ID]bool) ([]journal.Entry, error) {
	inUse := map[string]bool{} // container IDs
	for id := range valid {
		inUse[id.ContainerID] = true
	}
	for _, e := range s.journal.Entries() {
		if e.Network == c.conf.Name {
			inUse[e.ContainerID] = true
		}
	}
	snapshot, err := s.client.List(ctx, datastore.Range{Kind: api.KindIPAMBlock})
	if err != nil {
		return nil, fmt.Errorf("list the blocks of addresses: %w", err)
	}
	var found []journal.Entry
	for _, entry := range snapshot.Entries {
		block, ok := entry.Object.(*api.IPAMBlock)
		if !ok {
			continue
		}
		for _, container := range containersIn(block, s.node, c.conf.Name) {
			if !inUse[container] {
				inUse[container] = true
				found = append(found, s.orphan(c, container))
			}
		}
	}
	return found, nil
}

// containersIn lists the containers of a network that hold addresses of a block
// on a node.
func containersIn(block *api.IPAMBlock, node, network string) []string {
	var containers []string
	held := map[int]bool{}
	for _, index := range block.Spec.Allocations {
		if index != nil {
			held[*index] = true
		}
	}
	for i, attrs := range block.Spec.Attributes {
		if !held[i] || attrs.HandleID == nil || attrs.ActiveOwnerAttrs[api.AttributeNode] != node {
			continue
		}
		// A container ID may have dots in it, and so may the name of a network: what
		// could be another network's is left alone.
		container, ok := strings.CutPrefix(*attrs.HandleID, network+".")
		if ok && container != "" && !strings.Contains(container, ".") {
			containers = append(containers, container)
		}
	}
	return containers
}

// orphan is the entry of a container's attachment as far as the datastore
// tells.
func (s *Server) orphan(c call, container string) journal.Entry {
	e := journal.Entry{
		ID:     journal.ID{Network: c.conf.Name, ContainerID: container},
		Plugin: pluginIPAM, // an address alone, unless there is an endpoint
	}
	for id, wep := range s.state.own() {
		if wep.Spec.ContainerID == container {
			e.Plugin, e.IfName = pluginCalico, wep.Spec.Endpoint
			e.Namespace, e.Endpoint, e.HostIf, e.HostPorts = id.Namespace, id.Name, wep.Spec.InterfaceName, portsOf(wep)
		}
	}
	return e
}
