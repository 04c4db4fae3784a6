package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Patcher is the API server; *kubeapi.Client is one.
type Patcher interface {
	PatchNodeStatus(ctx context.Context, node string, patch []byte) error
}

// Condition keeps the Node's condition NetworkUnavailable, in upstream's words: while
// it is True the scheduler sends no pods.
type Condition struct {
	API   Patcher
	Node  *Node
	Ready func() error // nil when pods can be started
	Log   *slog.Logger
}

// The reasons, as upstream's users and other programs know them.
const (
	reasonUp   = "CalicoIsUp"
	reasonDown = "CalicoIsDown"
)

// The pace of a Condition.
const (
	untilReady   = time.Second
	patchTimeout = 5 * time.Second
	// leaveBe is how long a condition that another program has set stands: a cloud's
	// route controller has its own view of the network.
	leaveBe = time.Minute
)

// Run says that the network is there as soon as felix is ready, and whenever the Node
// says otherwise, until ctx ends.
func (c *Condition) Run(ctx context.Context) error {
	for c.Ready() != nil {
		if !sleep(ctx, untilReady) {
			return nil
		}
	}
	first := true
	for ctx.Err() == nil {
		condition, known, changed := c.Node.unavailable()
		switch {
		case known && isDue(condition, first):
			pause := leaveBe
			if err := c.set(ctx, corev1.ConditionFalse, reasonUp, "Calico is running on this node"); err != nil {
				c.Log.Debug("the node's condition can't be set; trying again", "err", err) // its line is in the problems
				pause = pauseMax
			} else {
				first = false
			}
			if !sleep(ctx, pause) {
				return nil
			}
		default:
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
	return nil
}

// isDue reports whether the condition has to be set. At felix's start it is written in
// our words; afterwards only when it says that there is no network.
func isDue(condition *corev1.NodeCondition, first bool) bool {
	if condition == nil || condition.Status != corev1.ConditionFalse {
		return true
	}
	return first && condition.Reason != reasonUp
}

// Down says that felix is ending, so that the scheduler sends no pods meanwhile.
func (c *Condition) Down(ctx context.Context) error {
	return c.set(ctx, corev1.ConditionTrue, reasonDown, "Calico is shutting down on this node")
}

func (c *Condition) set(ctx context.Context, status corev1.ConditionStatus, reason, message string) error {
	now := metav1.Now()
	raw, err := json.Marshal([]corev1.NodeCondition{{
		Type: corev1.NodeNetworkUnavailable, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
	}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patchTimeout)
	defer cancel()
	return c.API.PatchNodeStatus(ctx, c.Node.name, fmt.Appendf(nil, `{"status":{"conditions":%s}}`, raw))
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
