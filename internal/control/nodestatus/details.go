package nodestatus

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
)

// PeersAnnotation on a CalicoNodeStatus asks bgpd for its peers with all that it tells
// calicoctl on the node itself, and then holds them: upstream's status has no field for
// names, AS numbers, counts and causes.
const PeersAnnotation = "tortie/bgp-peers"

// EncodePeers is the annotation's value; the same peers make the same text.
func EncodePeers(peers *PeersResponse) (string, error) {
	text, err := protojson.Marshal(peers)
	if err != nil {
		return "", fmt.Errorf("encode the BGP peers: %w", err)
	}
	// protojson puts spaces where it likes.
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return "", fmt.Errorf("encode the BGP peers: %w", err)
	}
	return out.String(), nil
}

// DecodePeers reads it. What a newer bgpd says more is left out.
func DecodePeers(text string) (*PeersResponse, error) {
	var out PeersResponse
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("read the BGP peers: %w", err)
	}
	return &out, nil
}
