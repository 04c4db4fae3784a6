package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaseName is the Lease by which the replicas agree on who works.
const LeaseName = "tortie-kube-controllers"

// Election says how replicas agree on who works.
type Election struct {
	Client              kubernetes.Interface
	Namespace, Identity string
	// Lead works until its context ends. It may be called again later.
	Lead func(context.Context)
	Log  *slog.Logger

	mu      sync.Mutex
	problem error
}

// Run takes part in the election until ctx ends. When it loses the lead it waits
// until the work has ended, and stands again.
func (e *Election) Run(ctx context.Context) error {
	lock := &watchedLock{election: e, Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: e.Namespace, Name: LeaseName},
		Client:     e.Client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
	}}
	for ctx.Err() == nil {
		if err := e.term(ctx, lock); err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
	}
	return nil
}

// term stands for election until it has led and lost, or ctx ends.
func (e *Election) term(ctx context.Context, lock resourcelock.Interface) error {
	var working sync.Mutex // held while the work goes on
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: LeaseName, ReleaseOnCancel: true,
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				working.Lock()
				defer working.Unlock()
				if ctx.Err() != nil { // this term is over already
					return
				}
				e.Log.Info("this replica works now", "identity", e.Identity)
				e.Lead(ctx)
			},
			OnStoppedLeading: func() { e.Log.Info("this replica doesn't work any more", "identity", e.Identity) },
		},
	})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	working.Lock()
	defer working.Unlock()
	return nil
}

// Health is nil unless the Lease can't be read or written.
func (e *Election) Health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.problem
}

// note remembers what became of a request for the Lease, and logs it when that
// is news.
func (e *Election) note(err error) {
	switch {
	case apierrors.IsForbidden(err):
		err = fmt.Errorf("leases: RBAC forbids it: give the Role of kube-controllers in namespace %s the verbs get, create and update on leases (coordination.k8s.io): %w", e.Namespace, err)
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		err = nil // part of any election
	case err != nil:
		err = explain("leases", err)
	}
	e.mu.Lock()
	before := e.problem
	e.problem = err
	e.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		e.Log.Error("can't take part in the leader election: trying again", "namespace", e.Namespace, "lease", LeaseName, "err", err)
	}
}

// watchedLock tells the Election how its requests fare.
type watchedLock struct {
	resourcelock.Interface
	election *Election
}

// Get implements resourcelock.Interface.
func (l *watchedLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	l.election.note(err)
	return record, raw, err
}

// Create implements resourcelock.Interface.
func (l *watchedLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, r)
	l.election.note(err)
	return err
}

// Update implements resourcelock.Interface.
func (l *watchedLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Update(ctx, r)
	l.election.note(err)
	return err
}
