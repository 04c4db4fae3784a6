package kernel_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// shaped is a veth and an ifb in a namespace of their own.
func shaped(t *testing.T) (h *kernel.Handle, veth, ifb kernel.Link) {
	t.Helper()
	kerneltest.Require(t, kerneltest.Veth, kerneltest.Shaping)
	h = kerneltest.New(t)
	veth, err := h.CreateVeth(kernel.VethSpec{Host: "cali0", Peer: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	if ifb, err = h.CreateIfb("bwcali0", 1400); err != nil {
		t.Fatal(err)
	}
	if !ifb.Up || ifb.MTU != 1400 || ifb.Kind != "ifb" {
		t.Fatalf("made %+v", ifb)
	}
	return h, veth, ifb
}

// TestTokenBucketReadsBackAsWritten: also what needs more than 32 bits.
func TestTokenBucketReadsBackAsWritten(t *testing.T) {
	h, veth, _ := shaped(t)
	for name, b := range map[string]kernel.TokenBucket{
		"slow":       {Rate: 125, Burst: 1514, Queue: 48000},
		"usual":      {Rate: 1250000, Burst: 5000000, Queue: 60000},
		"two":        {Rate: 1250000, Burst: 500000, Queue: 60000, Peak: 2500000, PeakBurst: 1514},
		"fast":       {Rate: 12.5e9, Burst: 4e9, Queue: 4e9},
		"fast peaks": {Rate: 12.5e9, Burst: 4e9, Queue: 4e9, Peak: 13e9, PeakBurst: 70000},
	} {
		b.Link = veth.Index
		if err := h.SetTokenBucket(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := h.TokenBuckets(t.Context())
		if err != nil || len(got) != 1 || !got[0].Like(b) {
			t.Errorf("%s: read %+v, %v\nwant %+v", name, got, err, b)
		}
		other := b
		other.Burst += b.Burst / 2
		if len(got) == 1 && got[0].Like(other) {
			t.Errorf("%s: is taken for one of half as much again", name)
		}
	}
	if err := h.DeleteTokenBucket(veth.Index); err != nil {
		t.Fatal(err)
	}
	if got, err := h.TokenBuckets(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("after it was deleted there is %v, %v", got, err)
	}
}

// TestShapingOfOthersIsNotOurs: it is neither read nor deleted for ours.
func TestShapingOfOthersIsNotOurs(t *testing.T) {
	kerneltest.Require(t, kerneltest.IPRoute2)
	h, veth, ifb := shaped(t)
	ns, err := h.Netns()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tc := func(args string) string {
		t.Helper()
		var out []byte
		err := ns.Do(func() (err error) {
			out, err = exec.Command("tc", strings.Fields(args)...).CombinedOutput()
			return err
		})
		if err != nil {
			t.Fatalf("tc %s: %v: %s", args, err, out)
		}
		return string(out)
	}
	tc("qdisc add dev cali0 root handle 1: tbf rate 1mbit burst 10k latency 25ms")
	tc("qdisc add dev cali0 ingress")
	tc("filter add dev cali0 parent ffff: prio 1 protocol all u32 match u32 0 0 action mirred egress mirror dev lo")
	if got, err := h.TokenBuckets(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("read as ours: %v, %v", got, err)
	}
	if err := h.DeleteTokenBucket(veth.Index); err == nil || !strings.Contains(tc("qdisc show dev cali0"), "tbf 1:") {
		t.Errorf("another's bucket was deleted: %v", err)
	}
	if to, others, err := h.RedirectOf(t.Context(), veth.Index); to != 0 || !others || err != nil {
		t.Errorf("redirect to %d, others %v, %v", to, others, err)
	}
	if err := h.Redirect(veth.Index, ifb.Index); err != nil {
		t.Fatal(err)
	}
	if to, others, err := h.RedirectOf(t.Context(), veth.Index); to != ifb.Index || !others || err != nil {
		t.Errorf("redirect to %d, others %v, %v", to, others, err)
	}
	if err := h.RemoveRedirect(t.Context(), veth.Index); err != nil {
		t.Fatal(err)
	}
	if rules := tc("filter show dev cali0 parent ffff:"); !strings.Contains(rules, "Mirror to device lo") || strings.Contains(rules, "bwcali0") {
		t.Errorf("left are %s", rules)
	}
}

func TestRedirectIsReadAndTakenAway(t *testing.T) {
	h, veth, ifb := shaped(t)
	for range 2 {
		if to, others, err := h.RedirectOf(t.Context(), veth.Index); to != 0 || others || err != nil {
			t.Fatalf("before: %d, %v, %v", to, others, err)
		}
		if err := h.RemoveRedirect(t.Context(), veth.Index); err != nil {
			t.Fatal(err)
		}
		if err := h.Redirect(veth.Index, ifb.Index); err != nil {
			t.Fatal(err)
		}
		if to, others, err := h.RedirectOf(t.Context(), veth.Index); to != ifb.Index || others || err != nil {
			t.Fatalf("%d, %v, %v", to, others, err)
		}
		if err := h.RemoveRedirect(t.Context(), veth.Index); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Redirect(veth.Index, 4711); err == nil {
		t.Error("a redirect to nowhere")
	}
	if err := h.SetTokenBucket(kernel.TokenBucket{Link: veth.Index, Rate: 1}); !errors.Is(err, kernel.ErrInvalid) {
		t.Errorf("a bucket of no burst: %v", err)
	}
}
