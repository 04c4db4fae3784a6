// Package agentwire is how the lab talks to the agents that stand in for a pod's
// containers, for the nodes and for the outside host: JSON, one request and one
// response per connection, over a Unix socket.
package agentwire

import (
	"net/netip"
	"time"
)

// Port is where every agent answers probes, TCP and UDP, on all addresses.
const Port = 7946

// Request asks an agent to do one thing.
type Request struct {
	// Probes are dialled all together.
	Probes []Probe `json:"probes,omitempty"`
	// StartStream begins a stream under its ID.
	StartStream *Stream `json:"startStream,omitempty"`
	// StopStream ends a stream and asks for its report.
	StopStream string `json:"stopStream,omitempty"`
	// Lookup is a name to be resolved.
	Lookup string `json:"lookup,omitempty"`
}

// Probe is one exchange with another agent.
type Probe struct {
	Network string         `json:"network"` // "tcp" or "udp"
	Target  netip.AddrPort `json:"target"`
	Timeout time.Duration  `json:"timeout"`
}

// Result is what came of a Probe.
type Result struct {
	// Seen is the address the receiver saw the probe come from.
	Seen netip.Addr `json:"seen"`
	// By is the name of the agent that answered.
	By  string        `json:"by,omitempty"`
	RTT time.Duration `json:"rtt"`
	Err string        `json:"err,omitempty"`
}

// Stream is numbered packets to one target at a steady rate, each of which the
// target must answer.
type Stream struct {
	ID       string         `json:"id"`
	Network  string         `json:"network"`
	Target   netip.AddrPort `json:"target"`
	Interval time.Duration  `json:"interval"`
}

// StreamReport says what became of a stream.
type StreamReport struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
	// Lost are the numbers of packets without an answer, at most 100.
	Lost []int `json:"lost,omitempty"`
	// LongestGap is the longest time between two answers.
	LongestGap time.Duration `json:"longestGap"`
	Err        string        `json:"err,omitempty"`
}

// Response answers a Request.
type Response struct {
	Results []Result      `json:"results,omitempty"`
	Stream  *StreamReport `json:"stream,omitempty"`
	// Addresses are those of the name.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Err       string       `json:"err,omitempty"`
}

// Answer is what a probed agent sends back.
type Answer struct {
	Seen netip.Addr `json:"seen"`
	By   string     `json:"by"`
	Seq  int        `json:"seq,omitempty"`
}
