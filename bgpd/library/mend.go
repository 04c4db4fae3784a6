package main

import (
	"fmt"
	"strings"
)

// The files with faults.
const (
	messages = "pkg/packet/bgp/bgp.go"
	peers    = "pkg/server/peer.go"
	defaults = "pkg/config/oc/default.go"
)

// change is one replacement, in a file, of text that occurs there once.
type change struct{ file, old, new string }

// changes mend what the library does with four messages. What parseBody makes of two of
// them ends the process:
//
//   - of a type that there isn't it returns no message at all, which its caller looks into
//     for the type (RFC 4271 section 6.1 wants a NOTIFICATION);
//   - some attributes that end early are read beyond their end, in whatever family: that
//     becomes what other malformed attributes are, the end of the session (RFC 7606
//     section 7.11).
//
// And two it takes for what they are not:
//
//   - a route in whose CLUSTER_LIST our own cluster ID stands has been here already, and is
//     to be ignored (RFC 4456 section 8); so that it is told of the cluster ID of peers that
//     are no clients, too, which the third file leaves out;
//   - a route with a loop takes the place of the one that the peer sent before (RFC 4271
//     section 9), which was kept.
func changes() []change {
	return append(crashes(), loops()...)
}

func crashes() []change {
	return []change{
		{
			file: messages,
			old: `func parseBody(h *BGPHeader, data []byte, options ...*MarshallingOption) (*BGPMessage, error) {
`,
			new: `func parseBody(h *BGPHeader, data []byte, options ...*MarshallingOption) (parsed *BGPMessage, failed error) {
	defer func() {
		if r := recover(); r != nil {
			parsed = &BGPMessage{Header: *h}
			failed = NewMessageErrorWithErrorHandling(BGP_ERROR_UPDATE_MESSAGE_ERROR, BGP_ERROR_SUB_MALFORMED_ATTRIBUTE_LIST,
				nil, ERROR_HANDLING_SESSION_RESET, nil, fmt.Sprintf("an attribute ends early: %v", r))
		}
	}()
`,
		},
		{
			file: messages,
			old: `		return nil, NewMessageError(BGP_ERROR_MESSAGE_HEADER_ERROR, BGP_ERROR_SUB_BAD_MESSAGE_TYPE, nil, "unknown message type")
	}
	err := msg.Body`,
			new: `		return msg, NewMessageError(BGP_ERROR_MESSAGE_HEADER_ERROR, BGP_ERROR_SUB_BAD_MESSAGE_TYPE, nil, "unknown message type")
	}
	err := msg.Body`,
		},
	}
}

func loops() []change {
	return []change{
		{
			file: peers,
			old: `				if hasOwnASLoop(localAS, allowOwnAS, aspath) {
					path.SetRejected(true)
					continue
				}
`,
			new: `				if hasOwnASLoop(localAS, allowOwnAS, aspath) {
					path.SetRejected(true)
					paths = append(paths, path.Clone(true))
					continue
				}
`,
		},
		{
			file: peers,
			old: `					path.SetRejected(true)
					continue
				}
			}
			paths = append(paths, path)
`,
			new: `					path.SetRejected(true)
					paths = append(paths, path.Clone(true))
					continue
				}
				if peer.ownClusterIn(path) {
					path.SetRejected(true)
					paths = append(paths, path.Clone(true))
					continue
				}
			}
			paths = append(paths, path)
`,
		},
		{
			file: peers,
			old: `func (peer *peer) startFSMHandler() {
`,
			new: `// ownClusterIn reports whether a path has been reflected by our own cluster.
func (peer *peer) ownClusterIn(path *table.Path) bool {
	peer.fsm.lock.RLock()
	own := peer.fsm.peerInfo.RouteReflectorClusterID
	peer.fsm.lock.RUnlock()
	for _, id := range path.GetClusterList() {
		if own != nil && id.Equal(own) {
			return true
		}
	}
	return false
}

func (peer *peer) startFSMHandler() {
`,
		},
		{
			file: defaults,
			old: `	if n.RouteReflector.Config.RouteReflectorClient {
		if n.RouteReflector.Config.RouteReflectorClusterId == "" {
`,
			new: `	if n.RouteReflector.Config.RouteReflectorClient || n.RouteReflector.Config.RouteReflectorClusterId != "" {
		if n.RouteReflector.Config.RouteReflectorClusterId == "" {
`,
		},
	}
}

// mend changes the text of one file. Another version of the library may have no need of
// it, or another one: then that is to be looked at.
func mend(file, text string) (string, error) {
	for _, c := range changes() {
		if c.file != file {
			continue
		}
		if n := strings.Count(text, c.old); n != 1 {
			return "", fmt.Errorf("the text to be mended is there %d times, not once: see whether this version of the library still has the faults that bgpd/library names", n)
		}
		text = strings.Replace(text, c.old, c.new, 1)
	}
	return text, nil
}
