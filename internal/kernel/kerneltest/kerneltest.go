// Package kerneltest gives tests a real kernel of their own: fresh network
// namespaces that vanish with the test.
package kerneltest

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"tortie/internal/kernel"
)

// Feature is something of the kernel or the machine that a test cannot do
// without.
type Feature string

// The features tests ask for.
const (
	Netns    Feature = "network namespaces (run as root)"
	Veth     Feature = "veth devices (CONFIG_VETH)"
	Vxlan    Feature = "VXLAN devices (CONFIG_VXLAN)"
	IPv6     Feature = "IPv6 (CONFIG_IPV6, ipv6.disable=0)"
	Nftables Feature = "nftables (the nft command and CONFIG_NF_TABLES)"
	NftNAT   Feature = "masquerading in nftables (CONFIG_NFT_MASQ)"
	Ping     Feature = "the ping command (iputils-ping)"
	IPRoute2 Feature = "the ip command (iproute2)"
)

// Require skips the test unless the machine has every feature. It is the only
// place where a test for the real kernel is skipped.
func Require(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		if err := probe(f); err != nil {
			t.Skipf("this machine lacks %s: %v", f, err)
		}
	}
}

func probe(f Feature) error {
	ns, err := kernel.CreateNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	switch f {
	case Netns:
		return nil
	case Veth:
		h, err := ns.Open()
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.CreateVeth(kernel.VethSpec{Host: "probe0", Peer: "probe1"})
		return err
	case Vxlan:
		h, err := ns.Open()
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.CreateVxlan(kernel.VxlanSpec{Name: "probe0", Vxlan: kernel.Vxlan{VNI: 1, Port: 4789, Local: netip.IPv6Loopback()}})
		return err
	case IPv6:
		return ns.Do(func() error {
			_, err := os.Stat("/proc/sys/net/ipv6/conf/all/forwarding")
			return err
		})
	case IPRoute2:
		_, err := exec.LookPath("ip")
		return err
	case Ping:
		_, err := exec.LookPath("ping")
		return err
	case Nftables:
		return nft(ns, "list", "ruleset")
	case NftNAT:
		return nft(ns, "add table inet probe; add chain inet probe c { type nat hook postrouting priority 100; };"+
			" add rule inet probe c masquerade")
	}
	return errors.New("unknown feature")
}

func nft(ns *kernel.Netns, args ...string) error {
	return ns.Do(func() error {
		out, err := exec.Command("nft", args...).CombinedOutput()
		if err != nil {
			return errors.Join(err, errors.New(string(out)))
		}
		return nil
	})
}

// NewNetns gives an empty network namespace, with its loopback up, that lasts as
// long as the test.
func NewNetns(t testing.TB) *kernel.Netns {
	t.Helper()
	Require(t, Netns)
	ns, err := kernel.CreateNetns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	h := Open(t, ns)
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetUp(lo.Index); err != nil {
		t.Fatal(err)
	}
	return ns
}

// Open gives a Handle in a namespace, closed at the end of the test.
func Open(t testing.TB, ns *kernel.Netns) *kernel.Handle {
	t.Helper()
	h, err := ns.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// New gives a Handle in an empty network namespace of its own, with its loopback
// up. Both last as long as the test.
func New(t testing.TB) *kernel.Handle {
	t.Helper()
	return Open(t, NewNetns(t))
}
