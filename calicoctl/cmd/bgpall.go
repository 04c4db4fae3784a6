package cmd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
)

// Other nodes are asked through the datastore: a CalicoNodeStatus for each, which its
// bgpd fills in at once and which is deleted again. So bgpd need not listen on the
// network, and who may read the cluster's resources may ask, from anywhere.

const (
	askPrefix = "calicoctl-"
	// askPeriod is the longest there is: each node answers once.
	askPeriod = 86400
	// leftover is the age at which a request is one that an interrupted run has left.
	leftover = 5 * time.Minute
)

// nodePeers is what one node has answered.
type nodePeers struct {
	node  string
	peers []*nodestatus.Peer
}

// allPeers asks every node that speaks BGP. Those that did answer are returned with the
// error of those that did not.
func (a *app) allPeers(ctx context.Context, store *resource.Store) ([]nodePeers, error) {
	names, err := bgpNodes(ctx, store.Client)
	if err != nil {
		return nil, err
	}
	if err := a.sweepRequests(ctx, store.Client); err != nil {
		return nil, err
	}
	run := make([]byte, 4)
	_, _ = rand.Read(run) // never fails
	prefix := askPrefix + hex.EncodeToString(run) + "-"
	asked, err := a.request(ctx, store, prefix, names)
	defer a.withdraw(context.WithoutCancel(ctx), store.Client, asked)
	if err != nil {
		return nil, err
	}
	answers, err := a.collect(ctx, store.Client, prefix, len(names))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		if !slices.ContainsFunc(answers, func(n nodePeers) bool { return n.node == name }) {
			errs = append(errs, fmt.Errorf("node %s: no answer within %s: its bgpd is not running, can't reach the datastore or speaks no BGP; "+
				"run calicoctl node status there", name, a.OpTimeout))
		}
	}
	return answers, errors.Join(errs...)
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

// sweepRequests deletes what interrupted runs have left.
func (a *app) sweepRequests(ctx context.Context, client datastore.Client) error {
	snap, err := client.List(ctx, datastore.Range{Kind: api.KindCalicoNodeStatus, NamePrefix: askPrefix})
	if err != nil {
		return fmt.Errorf("list CalicoNodeStatus: %w", err)
	}
	for _, e := range snap.Entries {
		_, ours := e.Object.(*v3.CalicoNodeStatus).Annotations[nodestatus.PeersAnnotation]
		if ours && a.Now().Sub(e.Object.GetCreationTimestamp().Time) > leftover {
			a.withdraw(ctx, client, []api.Key{e.Key})
		}
	}
	return nil
}

// request asks each node, and returns what has to be deleted again.
func (a *app) request(ctx context.Context, store *resource.Store, prefix string, nodes []string) ([]api.Key, error) {
	resources := datastore.NewResources(store.Client, a.Registry, a.Now)
	var asked []api.Key
	period := uint32(askPeriod)
	for _, node := range nodes {
		e, err := resources.Create(ctx, &v3.CalicoNodeStatus{
			ObjectMeta: metav1.ObjectMeta{Name: prefix + node, Annotations: map[string]string{nodestatus.PeersAnnotation: ""}},
			Spec: v3.CalicoNodeStatusSpec{
				Node: node, Classes: []v3.NodeStatusClassType{v3.NodeStatusClassTypeBGP}, UpdatePeriodSeconds: &period,
			},
		})
		if err != nil {
			return asked, fmt.Errorf("ask node %s: %w", node, err)
		}
		asked = append(asked, e.Key)
	}
	return asked, nil
}

// withdraw deletes requests. What can't be deleted now is by a later run.
func (a *app) withdraw(ctx context.Context, client datastore.Client, keys []api.Key) {
	for batch := range slices.Chunk(keys, datastore.MaxTxnOps) {
		var ops []datastore.Op
		for _, key := range batch {
			ops = append(ops, datastore.DeleteAny(key))
		}
		if _, err := client.Txn(ctx, ops...); err != nil {
			a.warn(fmt.Sprintf("CalicoNodeStatus %s* could not be deleted, the next bgp peers --all-nodes does it: %v", batch[0].Name, err))
			return
		}
	}
}

// collect waits for the answers of so many nodes, as long as one call may take.
func (a *app) collect(ctx context.Context, client datastore.Client, prefix string, nodes int) ([]nodePeers, error) {
	of := datastore.Range{Kind: api.KindCalicoNodeStatus, NamePrefix: prefix}
	waiting, cancel := context.WithTimeout(ctx, a.OpTimeout)
	defer cancel()
	snap, err := client.List(waiting, of)
	if err != nil {
		return nil, fmt.Errorf("read the answers: %w", err)
	}
	watch, err := client.Watch(waiting, of, snap.Revision)
	if err != nil {
		return nil, fmt.Errorf("wait for the answers: %w", err)
	}
	defer watch.Stop()
	answers := map[string]nodePeers{}
	entries := snap.Entries
	for {
		for _, e := range entries {
			if err := take(answers, e); err != nil {
				return nil, err
			}
		}
		if len(answers) == nodes {
			return sorted(answers), nil
		}
		select {
		case events, ok := <-watch.Events():
			if !ok && waiting.Err() == nil {
				return nil, fmt.Errorf("wait for the answers: %w", errors.Join(watch.Err(), datastore.ErrUnavailable))
			}
			entries = entriesOf(events)
		case <-waiting.Done():
		}
		if waiting.Err() != nil {
			return sorted(answers), ctx.Err()
		}
	}
}

func entriesOf(events []datastore.Event) []datastore.Entry {
	var out []datastore.Entry
	for _, ev := range events {
		if ev.Entry != nil {
			out = append(out, *ev.Entry)
		}
	}
	return out
}

func sorted(answers map[string]nodePeers) []nodePeers {
	var out []nodePeers
	for _, n := range answers {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b nodePeers) int { return strings.Compare(a.node, b.node) })
	return out
}

// take notes an answer. A bgpd of upstream's, or an older one, knows nothing of the
// annotation: its answer is the plain status.
func take(answers map[string]nodePeers, e datastore.Entry) error {
	o := e.Object.(*v3.CalicoNodeStatus)
	if o.Status.LastUpdated.IsZero() {
		return nil
	}
	answer := nodePeers{node: o.Spec.Node}
	if text := o.Annotations[nodestatus.PeersAnnotation]; text != "" {
		peers, err := nodestatus.DecodePeers(text)
		if err != nil {
			return fmt.Errorf("node %s: %w", o.Spec.Node, err)
		}
		answer.peers = peers.GetPeers()
	} else {
		answer.peers = plainPeers(o.Status.BGP)
	}
	answers[o.Spec.Node] = answer
	return nil
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
