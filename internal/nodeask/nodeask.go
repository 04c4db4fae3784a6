// Package nodeask asks the bgpds of other nodes through the datastore: a CalicoNodeStatus
// for each, which its bgpd fills in at once and which is deleted again. So bgpd need not
// listen on the network, and who may read the cluster's resources may ask, from anywhere.
package nodeask

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

const (
	// period is the longest there is: each node answers once.
	period = 86400
	// leftover is the age at which a request is one that an interrupted run has left.
	leftover = 5 * time.Minute
)

// Asker asks.
type Asker struct {
	Client   datastore.Client
	Registry *api.Registry
	Now      func() time.Time
	// Timeout is how long nodes have for their answers.
	Timeout time.Duration
	// Prefix begins the names of the resources.
	Prefix string
	// Warn is told what could not be cleaned up.
	Warn func(text string)
}

// Question is what is asked.
type Question struct {
	// Annotation is the one by which bgpd says what is asked for.
	Annotation string
	// Class is what nodes say of themselves that don't know of the annotation.
	Class v3.NodeStatusClassType
}

// Ask asks nodes, and returns the answers by node. One that does not answer in time is
// not in them.
func (a Asker) Ask(ctx context.Context, q Question, nodes []string) (map[string]*v3.CalicoNodeStatus, error) {
	if err := a.sweep(ctx, q); err != nil {
		return nil, err
	}
	run := make([]byte, 4)
	_, _ = rand.Read(run) // never fails
	prefix := a.Prefix + hex.EncodeToString(run) + "-"
	asked, err := a.request(ctx, q, prefix, nodes)
	defer a.withdraw(context.WithoutCancel(ctx), asked)
	if err != nil {
		return nil, err
	}
	return a.collect(ctx, prefix, len(nodes))
}

// sweep deletes what interrupted runs have left.
func (a Asker) sweep(ctx context.Context, q Question) error {
	snap, err := a.Client.List(ctx, datastore.Range{Kind: api.KindCalicoNodeStatus, NamePrefix: a.Prefix})
	if err != nil {
		return fmt.Errorf("list CalicoNodeStatus: %w", err)
	}
	for _, e := range snap.Entries {
		_, ours := e.Object.(*v3.CalicoNodeStatus).Annotations[q.Annotation]
		if ours && a.Now().Sub(e.Object.GetCreationTimestamp().Time) > leftover {
			a.withdraw(ctx, []api.Key{e.Key})
		}
	}
	return nil
}

// request asks each node, and returns what has to be deleted again.
func (a Asker) request(ctx context.Context, q Question, prefix string, nodes []string) ([]api.Key, error) {
	resources := datastore.NewResources(a.Client, a.Registry, a.Now)
	var asked []api.Key
	once := uint32(period)
	for _, node := range nodes {
		e, err := resources.Create(ctx, &v3.CalicoNodeStatus{
			ObjectMeta: metav1.ObjectMeta{Name: prefix + node, Annotations: map[string]string{q.Annotation: ""}},
			Spec:       v3.CalicoNodeStatusSpec{Node: node, Classes: []v3.NodeStatusClassType{q.Class}, UpdatePeriodSeconds: &once},
		})
		if err != nil {
			return asked, fmt.Errorf("ask node %s: %w", node, err)
		}
		asked = append(asked, e.Key)
	}
	return asked, nil
}

// withdraw deletes requests. What can't be deleted now is by a later run.
func (a Asker) withdraw(ctx context.Context, keys []api.Key) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	for batch := range slices.Chunk(keys, datastore.MaxTxnOps) {
		var ops []datastore.Op
		for _, key := range batch {
			ops = append(ops, datastore.DeleteAny(key))
		}
		if _, err := a.Client.Txn(ctx, ops...); err != nil {
			a.Warn(fmt.Sprintf("CalicoNodeStatus %s* could not be deleted, the next one who asks does it: %v", batch[0].Name, err))
			return
		}
	}
}

// collect waits for the answers of so many nodes, as long as one call may take.
func (a Asker) collect(ctx context.Context, prefix string, nodes int) (map[string]*v3.CalicoNodeStatus, error) {
	of := datastore.Range{Kind: api.KindCalicoNodeStatus, NamePrefix: prefix}
	waiting, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	snap, err := a.Client.List(waiting, of)
	if err != nil {
		return nil, fmt.Errorf("read the answers: %w", err)
	}
	// The watch itself has no deadline: etcd would end it a moment before ours, as an error.
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	watch, err := a.Client.Watch(watchCtx, of, snap.Revision)
	if err != nil {
		return nil, fmt.Errorf("wait for the answers: %w", err)
	}
	defer watch.Stop()
	answers := map[string]*v3.CalicoNodeStatus{}
	entries := snap.Entries
	for {
		for _, e := range entries {
			if o := e.Object.(*v3.CalicoNodeStatus); !o.Status.LastUpdated.IsZero() {
				answers[o.Spec.Node] = o
			}
		}
		if len(answers) == nodes {
			return answers, nil
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
			return answers, ctx.Err()
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
