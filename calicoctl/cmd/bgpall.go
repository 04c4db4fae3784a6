package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
	"tortie/internal/nodeask"
)

// nodePeers is what one node has answered.
type nodePeers struct {
	node  string
	peers []*nodestatus.Peer
}

// asker asks other nodes, through the datastore.
func (a *app) asker(store *resource.Store) nodeask.Asker {
	return nodeask.Asker{Client: store.Client, Registry: a.Registry, Now: a.Now, Timeout: a.OpTimeout, Prefix: "calicoctl-", Warn: a.warn}
}

// allPeers asks every node that speaks BGP. Those that did answer are returned with the
// error of those that did not.
func (a *app) allPeers(ctx context.Context, store *resource.Store) ([]nodePeers, error) {
	names, err := bgpNodes(ctx, store.Client)
	if err != nil {
		return nil, err
	}
	answers, err := a.asker(store).Ask(ctx, nodeask.Question{Annotation: nodestatus.PeersAnnotation, Class: v3.NodeStatusClassTypeBGP}, names)
	if err != nil {
		return nil, err
	}
	var out []nodePeers
	var errs []error
	for _, name := range names {
		answer, ok := answers[name]
		if !ok {
			errs = append(errs, fmt.Errorf("node %s: no answer within %s: its bgpd is not running, can't reach the datastore or speaks no BGP; "+
				"run calicoctl node status there", name, a.OpTimeout))
			continue
		}
		peers, err := peersOf(answer)
		if err != nil {
			return nil, err
		}
		out = append(out, nodePeers{node: name, peers: peers})
	}
	return out, errors.Join(errs...)
}

// bgpNodes are the nodes with an address for BGP, by name.
func bgpNodes(ctx context.Context, client datastore.Client) ([]string, error) {
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindNode})
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	var names []string
	for _, e := range snap.Entries {
		if n, ok := e.Object.(*api.Node); ok && n.Spec.BGP != nil {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// peersOf reads an answer. A bgpd of upstream's, or an older one, knows nothing of the
// annotation: its answer is the plain status.
func peersOf(o *v3.CalicoNodeStatus) ([]*nodestatus.Peer, error) {
	text := o.Annotations[nodestatus.PeersAnnotation]
	if text == "" {
		return plainPeers(o.Status.BGP), nil
	}
	peers, err := nodestatus.DecodePeers(text)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", o.Spec.Node, err)
	}
	return peers.GetPeers(), nil
}

func plainPeers(s v3.CalicoNodeBGPStatus) []*nodestatus.Peer {
	words := map[v3.BGPPeerType]string{
		v3.BGPPeerTypeNodeMesh: "node-to-node mesh", v3.BGPPeerTypeGlobalPeer: "global", v3.BGPPeerTypeNodePeer: "node specific",
	}
	var out []*nodestatus.Peer
	for _, p := range slices.Concat(s.PeersV4, s.PeersV6) {
		peer := &nodestatus.Peer{Address: p.PeerIP, Type: words[p.Type], State: string(p.State)}
		if t, err := time.Parse(time.RFC3339, p.Since); err == nil {
			peer.Since = t.Unix()
		}
		out = append(out, peer)
	}
	return out
}
