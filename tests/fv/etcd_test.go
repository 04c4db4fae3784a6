package fv

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tortie/internal/control/cniwire"
	"tortie/tests/lab"
)

// etcdAway is how long the datastore is gone.
const etcdAway = 30 * time.Second

// TestDatastoreAwayForThirtySeconds stops etcd under running traffic: packets flow,
// DEL works, ADD answers code 11 within its deadline, and everything is reconciled
// when etcd is back.
func TestDatastoreAwayForThirtySeconds(t *testing.T) {
	l := up(t, "etcd", 3)
	addPods(t, l, 9, 1)
	mustConverge(t, l)
	tr := startTraffic(t, l)

	if err := l.StopEtcd(); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	began := time.Now()
	if err := l.DelPod(t.Context(), "pod-08-node3"); err != nil {
		t.Errorf("DEL while etcd is away: %v", err)
	}
	t.Logf("DEL while etcd is away took %v", time.Since(began))

	began = time.Now()
	_, err := l.AddPod(t.Context(), lab.PodSpec{Name: "late", Node: "node3"})
	cniErr := (*lab.CNIError)(nil)
	if !errors.As(err, &cniErr) || cniErr.Code != cniwire.CodeTryAgainLater {
		t.Errorf("ADD while etcd is away: %v, want CNI error %d", err, cniwire.CodeTryAgainLater)
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("ADD took %v to answer", took)
	}
	t.Logf("ADD while etcd is away answered after %v: %v", time.Since(began), err)

	time.Sleep(time.Until(gone.Add(etcdAway)))
	if err := l.StartEtcd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr.stopAndDemandNoLoss(t)

	if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "late", Node: "node3"}); err != nil {
		t.Fatalf("ADD after etcd is back: %v", err)
	}
	mustConverge(t, l)
	waitStoreSound(t, l, 9)
}

// TestEtcdOutsideTheLab builds a lab on an etcd that runs elsewhere, as with
// `lab up --etcd`, and looks for the pod's address in it.
func TestEtcdOutsideTheLab(t *testing.T) {
	endpoint := plainEtcd(t)
	l := upWith(t, "external", 1, func(s *lab.Spec) { s.Etcd = endpoint })
	addPods(t, l, 2, 1)
	mustConverge(t, l)
	out, errs, err := calicoctl(t, []string{"ETCD_ENDPOINTS=" + endpoint}, "get", "workloadendpoints", "-n", "default")
	if err != nil || !strings.Contains(out, "pod-00-node1") {
		t.Errorf("calicoctl against the etcd itself: %v: %s%s", err, out, errs)
	}
}
