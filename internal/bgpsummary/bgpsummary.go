// Package bgpsummary is what a node's bgpd says, in few words, of its sessions and of
// what its routes depend on: enough to know whether sessions may end without a route
// being lost by it, and small however many nodes there are. It is pure.
package bgpsummary

import (
	"encoding/json"
	"fmt"
)

// Annotation on a CalicoNodeStatus asks bgpd for its Summary, and then holds it.
const Annotation = "tortie/bgp-summary"

// Summary is one node's.
type Summary struct {
	// ClusterID is that which the node acts by as route reflector, not that which it is
	// to have; empty for none.
	ClusterID string `json:"clusterID,omitempty"`
	// Mesh are the sessions of the node-to-node mesh, Peers those of BGPPeers, by their
	// names.
	Mesh  Group            `json:"mesh"`
	Peers map[string]Group `json:"peers,omitempty"`
	// MeshOnly is how many prefixes the node knows by the mesh alone.
	MeshOnly int `json:"meshOnly,omitempty"`
	// Only is how many prefixes are known by one session of a BGPPeer alone, by its
	// address. A route reflector doesn't tell.
	Only map[string]int `json:"only,omitempty"`
	// Reflected is how many prefixes are known by others than their next hop alone, by
	// next hop.
	Reflected map[string]int `json:"reflected,omitempty"`
	// Kept is how many routes are in the kernel that no session that is up stands for.
	Kept int `json:"kept,omitempty"`
}

// Group are the sessions of one origin.
type Group struct {
	Sessions int `json:"sessions"`
	// Youngest is for how many seconds the last of them that came up has been up.
	Youngest int64 `json:"youngest,omitempty"`
	// Down says of those that aren't up why, by address.
	Down map[string]string `json:"down,omitempty"`
}

// Encode is the annotation's value; equal summaries make equal texts.
func Encode(s Summary) (string, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encode the BGP summary: %w", err)
	}
	return string(text), nil
}

// Decode reads it.
func Decode(text string) (Summary, error) {
	var s Summary
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Summary{}, fmt.Errorf("read the BGP summary: %w", err)
	}
	return s, nil
}
