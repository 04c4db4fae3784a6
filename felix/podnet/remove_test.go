package podnet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tortie/felix/podnet"
	"tortie/internal/kernel"
)

func TestRemoveTakesTheDeviceOutOfServiceAtOnce(t *testing.T) {
	w := newWorld(t, nil) // without Run: nothing is deleted
	got := w.add(attachment(w.newPod(), 1))
	if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node.LinkByName(hostIf(1)); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("the name is not free: %v", err)
	}
	l, err := w.node.LinkByIndex(got.HostIndex)
	if err != nil || l.Up || l.Group != podnet.DefaultReapGroup {
		t.Errorf("device %+v, %v", l, err)
	}
	routes, _ := w.node.Routes(context.Background(), kernel.RouteFilter{Protocol: kernel.ProtocolFelix})
	if len(routes) != 0 {
		t.Errorf("routes %v", routes)
	}
	if ds, err := w.net.Devices(context.Background()); err != nil || len(ds) != 0 {
		t.Errorf("devices %v, %v", ds, err)
	}
	w.run()
	w.eventually("the device is deleted", func() bool {
		_, err := w.node.LinkByIndex(got.HostIndex)
		return errors.Is(err, kernel.ErrNotFound)
	})
}

// TestNamespaceThatEndsTakesItsDeviceAlong: then a deletion of ours would only hold
// up the calls that come next.
func TestNamespaceThatEndsTakesItsDeviceAlong(t *testing.T) {
	deletions := make(counting, 10)
	w := newWorld(t, func(cfg *podnet.Config) { cfg.Reaper = deletions })
	got := w.add(attachment(w.newPod(), 1))
	if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
		t.Fatal(err)
	}
	if err := w.node.DeleteLink(got.HostIndex); err != nil { // as the namespace's end does
		t.Fatal(err)
	}
	w.run()
	w.add(attachment(w.newPod(), 2))
	if err := w.net.Remove(context.Background(), hostIf(2)); err != nil {
		t.Fatal(err)
	}
	<-deletions // of the device that stayed
	if s := w.net.ReapStats(); len(deletions) != 0 || s.Failures != 0 {
		t.Errorf("%d deletions more, %+v", len(deletions), s)
	}
}

// counting is a Reaper that only tells that it was called.
type counting chan struct{}

func (c counting) DeleteGroup(uint32) error {
	c <- struct{}{}
	return nil
}

func TestRemoveOfWhatIsAbsentSucceeds(t *testing.T) {
	w := newWorld(t, nil)
	w.add(attachment(w.newPod(), 1))
	for _, name := range []string{hostIf(1), hostIf(1), hostIf(2)} {
		if err := w.net.Remove(context.Background(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemoveRefusesADeviceThatIsNotOurs(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.net.Remove(context.Background(), "eth0"); !errors.Is(err, podnet.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestRemoveDeviceLeavesAYoungerDeviceAlone(t *testing.T) {
	w := newWorld(t, nil)
	got := w.add(attachment(w.newPod(), 1))
	old := podnet.Device{Name: hostIf(1), Index: got.HostIndex + 1000}
	if err := w.net.RemoveDevice(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	if l, err := w.node.LinkByName(hostIf(1)); err != nil || !l.Up {
		t.Errorf("device %+v, %v", l, err)
	}
}

// TestAddRightAfterRemove is for the pod whose interface is still there because
// its deletion waits.
func TestAddRightAfterRemove(t *testing.T) {
	w := newWorld(t, nil)
	a := attachment(w.newPod(), 1)
	for range 3 {
		if _, err := w.net.Add(context.Background(), a); err != nil {
			t.Fatal(err)
		}
		if err := w.net.Check(context.Background(), a, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.net.Remove(context.Background(), a.HostIf); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRunFinishesWhatAnEarlierProcessLeft(t *testing.T) {
	w := newWorld(t, nil)
	var left []int
	for n := 1; n <= 3; n++ {
		left = append(left, w.add(attachment(w.newPod(), n)).HostIndex)
	}
	keep := w.add(attachment(w.newPod(), 4)).HostIndex
	// Killed after Remove, and at two points within it.
	if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
		t.Fatal(err)
	}
	if err := w.node.SetGroup(left[1], podnet.DefaultReapGroup); err != nil {
		t.Fatal(err)
	}
	if err := w.node.SetDown(left[2]); err != nil {
		t.Fatal(err)
	}
	if err := w.node.Rename(left[2], fmt.Sprintf("calx%d", left[2])); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.eventually("all are deleted", func() bool { return len(w.links(w.node)) == 2 })
	if l, err := w.node.LinkByIndex(keep); err != nil || !l.Up {
		t.Errorf("the device in service: %+v, %v", l, err)
	}
}

// blocking answers a deletion only when the test lets it.
type blocking struct {
	kernel *kernel.Handle
	begun  chan struct{}
	answer chan error
}

func (b *blocking) DeleteGroup(group uint32) error {
	b.begun <- struct{}{}
	if err := <-b.answer; err != nil {
		return err
	}
	return b.kernel.DeleteGroup(group)
}

func newBlocking(cfg *podnet.Config) *blocking {
	b := &blocking{kernel: cfg.Kernel.(*kernel.Handle), begun: make(chan struct{}), answer: make(chan error)}
	cfg.Reaper, cfg.RetryMin = b, time.Microsecond
	return b
}

func TestDevicesRemovedDuringADeletionShareTheNext(t *testing.T) {
	var b *blocking
	w := newWorld(t, func(cfg *podnet.Config) { b = newBlocking(cfg) })
	for n := 1; n <= 20; n++ {
		w.add(attachment(w.newPod(), n))
	}
	remove := func(n int) {
		if err := w.net.Remove(context.Background(), hostIf(n)); err != nil {
			t.Fatal(err)
		}
	}
	remove(1)
	w.run()
	<-b.begun
	for n := 2; n <= 20; n++ {
		remove(n)
	}
	b.answer <- nil
	// The first deletion finds the whole group; what is left for a second is
	// nothing, or those that came while the first was at work.
	stop := make(chan struct{})
	var served sync.WaitGroup
	served.Go(func() {
		for {
			select {
			case <-b.begun:
				b.answer <- nil
			case <-stop:
				return
			}
		}
	})
	w.eventually("all are deleted", func() bool { return len(w.links(w.node)) == 1 })
	close(stop)
	served.Wait()
	if s := w.net.ReapStats(); s.Batches > 2 {
		t.Errorf("20 devices took %d deletions", s.Batches)
	}
}

func TestFailedDeletionIsRepeated(t *testing.T) {
	var b *blocking
	w := newWorld(t, func(cfg *podnet.Config) { b = newBlocking(cfg) })
	w.add(attachment(w.newPod(), 1))
	if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
		t.Fatal(err)
	}
	w.run()
	for range 3 {
		<-b.begun
		b.answer <- kernel.ErrBusy
	}
	<-b.begun
	b.answer <- nil
	w.eventually("the device is deleted", func() bool { return len(w.links(w.node)) == 1 })
	if s := w.net.ReapStats(); s.Failures != 3 {
		t.Errorf("stats %+v", s)
	}
}

func TestForeignDeviceInTheGroupSurvives(t *testing.T) {
	w := newWorld(t, nil)
	foreign, err := w.node.CreateVeth(kernel.VethSpec{Host: "uplink", Peer: "wan", HostGroup: podnet.DefaultReapGroup})
	if err != nil {
		t.Fatal(err)
	}
	w.add(attachment(w.newPod(), 1))
	if err := w.net.Remove(context.Background(), hostIf(1)); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.eventually("ours is deleted", func() bool { return len(w.links(w.node)) == 3 })
	if _, err := w.node.LinkByIndex(foreign.Index); err != nil {
		t.Errorf("the foreign device: %v", err)
	}
}

func TestManyAddsAndRemovesAtOnce(t *testing.T) {
	const pods = 50
	w := newWorld(t, nil)
	w.run()
	var list []podnet.Attachment
	for n := 1; n <= pods; n++ {
		list = append(list, attachment(w.newPod(), n))
	}
	each := func(what string, f func(podnet.Attachment) error) {
		t.Helper()
		var all sync.WaitGroup
		for _, a := range list {
			all.Go(func() {
				if err := f(a); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		all.Wait()
	}
	ctx := context.Background()
	for range 2 {
		each("add", func(a podnet.Attachment) error { _, err := w.net.Add(ctx, a); return err })
		each("check", func(a podnet.Attachment) error { return w.net.Check(ctx, a, nil) })
		ds, err := w.net.Devices(ctx)
		if err != nil || len(ds) != pods {
			t.Fatalf("%d devices, %v", len(ds), err)
		}
		each("remove", func(a podnet.Attachment) error { return w.net.Remove(ctx, a.HostIf) })
	}
	w.eventually("all are deleted", func() bool { return slices.Equal(w.links(w.node), []string{"lo"}) })
}
