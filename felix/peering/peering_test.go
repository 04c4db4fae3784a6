package peering

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// addresses are those of a link, as ip(8) would print them.
func addresses(t *testing.T, h *kernel.Handle, name string) []string {
	t.Helper()
	link, err := h.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.Addresses(link.Index)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range list {
		if a.Prefix.IsSingleIP() && unchosen(a) {
			out = append(out, a.Prefix.String())
		}
	}
	slices.Sort(out)
	return out
}

// TestAddressesArePutOnPodsDevicesOnly: and taken away again, also those of an earlier
// process, and nothing else.
func TestAddressesArePutOnPodsDevicesOnly(t *testing.T) {
	kerneltest.Require(t, kerneltest.Netns, kerneltest.Veth, kerneltest.IPv6)
	ns := kerneltest.NewNetns(t)
	h := kerneltest.Open(t, ns)
	index := map[string]int{}
	for _, name := range []string{"cali1", "cali2", "eth0"} {
		link, err := h.CreateVeth(kernel.VethSpec{Host: name, Peer: "peer-" + name, PeerNetns: ns})
		if err != nil {
			t.Fatal(err)
		}
		index[name] = link.Index
		if err := h.SetUp(link.Index); err != nil {
			t.Fatal(err)
		}
	}
	// Of an earlier process; of another's making, twice.
	for _, a := range []kernel.LinkAddress{
		{Link: index["cali2"], Prefix: netip.MustParsePrefix("169.254.0.99/32"), Deprecated: true},
		{Link: index["cali2"], Prefix: netip.MustParsePrefix("192.0.2.7/32")},
		{Link: index["eth0"], Prefix: netip.MustParsePrefix("169.254.0.179/32"), Deprecated: true},
	} {
		for _, err := range h.Apply(a) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	a := New(h, time.Hour, slog.New(slog.DiscardHandler))
	if !a.look() || !slices.Equal(addresses(t, h, "cali2"), []string{"169.254.0.99/32"}) {
		t.Error("something was done before anything was asked for")
	}
	v4, v6 := netip.MustParseAddr("169.254.0.179"), netip.MustParseAddr("fd00:0:0:b9::1")
	for _, tt := range []struct {
		name   string
		wanted map[string][]netip.Addr
		cali1  []string
		ready  bool
	}{
		{"two families", map[string][]netip.Addr{"cali1": {v4, v6}}, []string{"169.254.0.179/32", "fd00:0:0:b9::1/128"}, true},
		{"again", map[string][]netip.Addr{"cali1": {v4, v6}}, []string{"169.254.0.179/32", "fd00:0:0:b9::1/128"}, true},
		{"one family, and a device that is yet to come", map[string][]netip.Addr{"cali1": {v4}, "cali3": {v4}}, []string{"169.254.0.179/32"}, false},
		{"none", nil, nil, true},
	} {
		a.Set(tt.wanted)
		if ready := a.look(); ready != tt.ready {
			t.Errorf("%s: all is as wanted: %v, want %v", tt.name, ready, tt.ready)
		}
		if got := addresses(t, h, "cali1"); !slices.Equal(got, tt.cali1) {
			t.Errorf("%s: cali1 has %v, want %v", tt.name, got, tt.cali1)
		}
		if got := addresses(t, h, "cali2"); len(got) > 0 {
			t.Errorf("%s: cali2 still has %v of an earlier process", tt.name, got)
		}
	}
	if got := addresses(t, h, "eth0"); len(got) != 1 {
		t.Errorf("eth0, which is no pod's, has %v", got)
	}
	link, _ := h.Addresses(index["cali2"])
	if !slices.ContainsFunc(link, func(a kernel.Address) bool { return a.Prefix == netip.MustParsePrefix("192.0.2.7/32") }) {
		t.Errorf("another's address was taken from cali2: %v", link)
	}
}

// linksLater is a kernel whose device comes late.
type linksLater struct {
	Kernel
	looks int
	added []kernel.Change
}

func (k *linksLater) Links() ([]kernel.Link, error) {
	if k.looks++; k.looks < 3 {
		return nil, nil
	}
	return []kernel.Link{{Index: 1, Name: "cali1", Up: true}}, nil
}

func (k *linksLater) Addresses(int) ([]kernel.Address, error) {
	var out []kernel.Address
	for _, c := range k.added {
		a := c.(kernel.LinkAddress)
		out = append(out, kernel.Address{Link: a.Link, Prefix: a.Prefix, Scope: kernel.ScopeHost})
	}
	return out, nil
}

func (k *linksLater) Apply(changes ...kernel.Change) []error {
	k.added = append(k.added, changes...)
	return make([]error, len(changes))
}

func TestDeviceThatComesLateGetsItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &linksLater{}
		a := New(k, time.Hour, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		a.Set(map[string][]netip.Addr{"cali1": {netip.MustParseAddr("169.254.0.179")}})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(k.added) != 1 || k.looks != 3 {
			t.Errorf("%d looks, added %v", k.looks, k.added)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
