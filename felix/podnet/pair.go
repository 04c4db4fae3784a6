package podnet

import (
	"context"
	"errors"
	"fmt"

	"tortie/internal/kernel"
)

// createPair makes the veth pair, or adopts the one that is there.
func createPair(ctx context.Context, w *wiring) error {
	err := create(w)
	if errors.Is(err, kernel.ErrExists) {
		// What is there may serve a pod: it stays until the new one has its addresses.
		if err = awaitAddresses(ctx, w); err != nil {
			return err
		}
		if err = w.ns.Visit(w.open); err != nil {
			return err
		}
		if err = clearNames(ctx, w); err == nil && !w.adopted {
			err = create(w)
		}
	}
	return err
}

func create(w *wiring) (err error) {
	w.host, err = w.net.host.CreateVeth(kernel.VethSpec{
		Host: w.a.HostIf, HostMAC: hostMAC(), HostDown: true,
		Peer: w.a.IfName, PeerMAC: w.mac, PeerNetns: w.ns,
		MTU: w.a.MTU, Queues: w.a.NumQueues,
	})
	// The other end is as asked for, so it need not be read.
	w.pod = kernel.Link{Index: w.host.PeerIndex, Name: w.a.IfName, Kind: w.host.Kind, MTU: w.host.MTU, MAC: w.mac}
	return err
}

// clearNames finds out whose the two names are when the kernel says that one of
// them is taken, and frees them where that is right. See [Net.Add].
func clearNames(ctx context.Context, w *wiring) error {
	host, hostErr := w.net.host.LinkByName(w.a.HostIf)
	if hostErr != nil && !errors.Is(hostErr, kernel.ErrNotFound) {
		return hostErr
	}
	pod, podErr := w.inside.LinkByName(w.a.IfName)
	if podErr != nil && !errors.Is(podErr, kernel.ErrNotFound) {
		return podErr
	}
	hasHost, hasPod := hostErr == nil, podErr == nil
	if hasHost && host.Kind != "veth" {
		return fmt.Errorf("%w: the node has a device %s of kind %q, which is not ours; delete or rename it",
			ErrInterfaceExists, host.Name, host.Kind)
	}
	if hasHost && hasPod && arePeers(host, pod) {
		return adopt(w, host, pod)
	}
	if hasPod {
		if err := clearPodName(w, pod); err != nil {
			return err
		}
	}
	if hasHost {
		w.net.log.Info("removing device of an earlier sandbox", "iface", host.Name)
		return w.net.setAside(host)
	}
	return ctx.Err()
}

// clearPodName deletes the pod's interface when it is the other end of a device
// that waits for its deletion: a DEL of this pod was answered a moment ago.
func clearPodName(w *wiring, pod kernel.Link) error {
	taken := fmt.Errorf("%w: the pod has an interface %s already, from another network", ErrInterfaceExists, pod.Name)
	if pod.Kind != "veth" || pod.PeerIndex == 0 {
		return taken
	}
	host, err := w.net.host.LinkByIndex(pod.PeerIndex)
	if errors.Is(err, kernel.ErrNotFound) {
		// Its other end is in a third namespace, or both ends went this moment.
		if _, err = w.inside.LinkByIndex(pod.Index); errors.Is(err, kernel.ErrNotFound) {
			return nil
		}
		return taken
	}
	if err != nil {
		return err
	}
	if !arePeers(host, pod) || !w.net.reap.isOurs(host) {
		return taken
	}
	return w.net.host.DeleteLink(host.Index)
}

// arePeers reports whether two links are the ends of one veth pair. Indexes are
// unique only within a namespace, but both pointing at one another, one of the
// two under the name of this very attachment, is no accident.
func arePeers(host, pod kernel.Link) bool {
	return host.Kind == "veth" && pod.Kind == "veth" && host.PeerIndex == pod.Index && pod.PeerIndex == host.Index
}

// adopt takes over the pair of an earlier ADD of this same attachment and gives
// it what is asked for now.
func adopt(w *wiring, host, pod kernel.Link) error {
	w.adopted, w.host, w.pod = true, host, pod
	if w.a.MTU != 0 && host.MTU != w.a.MTU {
		if err := w.net.host.SetMTU(host.Index, w.a.MTU); err != nil {
			return err
		}
	}
	if w.a.MTU != 0 && pod.MTU != w.a.MTU {
		if err := w.inside.SetMTU(pod.Index, w.a.MTU); err != nil {
			return err
		}
		w.pod.MTU = w.a.MTU
	}
	if host.MAC != hostMAC() {
		if err := w.net.host.SetMAC(host.Index, hostMAC()); err != nil {
			return err
		}
	}
	if w.mac != (kernel.MAC{}) && pod.MAC != w.mac {
		if err := w.inside.SetMAC(pod.Index, w.mac); err != nil {
			return err
		}
		w.pod.MAC = w.mac
	}
	return nil
}

// deletePair deletes the pair and waits for it, so that a second attempt finds
// both names free.
func deletePair(w *wiring) error {
	if w.adopted || w.host.Index == 0 {
		return nil
	}
	return w.net.host.DeleteLink(w.host.Index)
}
