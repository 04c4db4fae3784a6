// Package kerneltest gives tests a real kernel of their own: fresh network
// namespaces that vanish with the test.
package kerneltest

import (
	"os"
	"testing"

	"tortie/internal/kernel"
	"tortie/internal/kernel/feature"
)

// Feature is something of the kernel or the machine that a test cannot do
// without.
type Feature = feature.Feature

// The features tests ask for.
const (
	Netns    = feature.Netns
	Veth     = feature.Veth
	Vxlan    = feature.Vxlan
	IPv6     = feature.IPv6
	Nftables = feature.Nftables
	NftNAT   = feature.NftNAT
	Ping     = feature.Ping
	IPRoute2 = feature.IPRoute2
	NextHops = feature.NextHops
	Shaping  = feature.Shaping

	IPIP      = feature.IPIP
	Wireguard = feature.Wireguard
	Dummy     = feature.Dummy
	Tun       = feature.Tun
)

// NoSkip is the variable in the environment with which a missing feature fails a
// test: where tests run that could not elsewhere, none is to be skipped again.
const NoSkip = "TORTIE_TEST_NO_SKIP"

// Require skips the test unless the machine has every feature. It is the only
// place where a test for the real kernel is skipped. What is skipped for the kernel's
// sake runs in a virtual machine: make test-vm.
func Require(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		err := feature.Probe(f)
		switch {
		case err == nil:
		case os.Getenv(NoSkip) != "":
			t.Fatalf("this machine lacks %s: %v", f, err)
		default:
			t.Skipf("this machine lacks %s: %v", f, err)
		}
	}
}

// Has reports whether the machine has a feature, for what a test looks at besides.
func Has(f Feature) bool { return feature.Probe(f) == nil }

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
