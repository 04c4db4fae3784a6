package bandwidth

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
	"tortie/internal/kernel/kerneltest/podworld"
)

// The limit of the tests: so slow that no machine is too slow for it.
const (
	rate  = 1000 // bytes a second
	burst = 4000 // bytes
	size  = 1000 // of a datagram
	sent  = 60
)

func slow() Limit { return Limit{Rate: 8 * rate, Burst: 8 * burst} }

// node is a node with two pods, and a Shaper of it.
type node struct {
	podworld.World
	*kernel.Handle
	*Shaper
	log     *bytes.Buffer
	retired []string
}

func newNode(t *testing.T) *node {
	t.Helper()
	kerneltest.Require(t, kerneltest.Shaping)
	n := &node{World: podworld.New(t), log: &bytes.Buffer{}}
	n.Handle = kerneltest.Open(t, n.Node)
	n.Shaper = n.another()
	return n
}

// another is a Shaper that knows nothing yet.
func (n *node) another() *Shaper {
	return New(Config{Kernel: n.Handle, Retire: func(l kernel.Link) error {
		n.retired = append(n.retired, l.Name)
		return n.DeleteLink(l.Index)
	}, Log: slog.New(slog.NewTextHandler(n.log, nil))})
}

func (n *node) apply(t *testing.T, pods ...Pod) {
	t.Helper()
	n.Set(pods)
	podworld.Check(t, n.Shaper.Apply(t.Context()))
}

// receive sends datagrams as fast as they go, and returns how many bytes arrived and
// how many would have at most within the limit.
func receive(t *testing.T, from, to *kernel.Netns, at string) (got, bound int) {
	t.Helper()
	var in, out net.Conn
	addr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))
	podworld.Check(t, to.Do(func() (err error) { in, err = net.ListenUDP("udp", addr); return err }))
	defer in.Close()
	podworld.Check(t, from.Do(func() (err error) { out, err = net.DialUDP("udp", nil, addr); return err }))
	defer out.Close()
	began := time.Now()
	for range sent {
		if _, err := out.Write(make([]byte, size)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	for buf := make([]byte, size); ; {
		// Of what is not limited all is there; of what is, a second passes for each.
		podworld.Check(t, in.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		n, err := in.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		podworld.Check(t, err)
		got += n
	}
	return got, burst + int(rate*(time.Since(began).Seconds()+1))
}

// wantLimited wants no more than the limit, and less only where an earlier test has the
// queue still full.
func wantLimited(t *testing.T, from, to *kernel.Netns, at string) (got int) {
	t.Helper()
	got, bound := receive(t, from, to, at)
	if got > bound || got == sent*size {
		t.Errorf("to %s: %d bytes arrived of %d, want %d at most", at, got, sent*size, bound)
	}
	return got
}

func wantSome(t *testing.T, got int) {
	t.Helper()
	if got == 0 {
		t.Error("nothing arrived")
	}
}

func wantFree(t *testing.T, from, to *kernel.Netns, at string) {
	t.Helper()
	if got, _ := receive(t, from, to, at); got != sent*size {
		t.Errorf("to %s: %d bytes arrived of %d", at, got, sent*size)
	}
}

// TestBytesArePassedAtTheRateAlone: each direction by itself, in both families, and of
// no other pod.
func TestBytesArePassedAtTheRateAlone(t *testing.T) {
	n := newNode(t)
	n.apply(t, Pod{Interface: "cali0", FromPod: slow()})
	wantSome(t, wantLimited(t, n.PodA, n.Outside, podworld.Outside+":5000"))
	wantLimited(t, n.PodA, n.PodB, podworld.PodB+":5000")
	wantFree(t, n.Outside, n.PodA, podworld.PodA+":5000")
	wantFree(t, n.PodB, n.Outside, podworld.Outside+":5000")

	n.apply(t, Pod{Interface: "cali0", ToPod: slow()})
	wantSome(t, wantLimited(t, n.Outside, n.PodA, podworld.PodA+":5001"))
	wantFree(t, n.PodA, n.Outside, "["+podworld.Outside6+"]:5001")

	n.apply(t, Pod{Interface: "cali1", FromPod: slow()})
	wantSome(t, wantLimited(t, n.PodB, n.Outside, "["+podworld.Outside6+"]:5002"))
	wantFree(t, n.Outside, n.PodA, podworld.PodA+":5002")
}

// TestConnectionWorksWithinItsBandwidth: packets that were put together are cut again.
func TestConnectionWorksWithinItsBandwidth(t *testing.T) {
	n := newNode(t)
	fast := Limit{Rate: 80e6, Burst: 80e3}
	n.apply(t, Pod{Interface: "cali0", FromPod: fast, ToPod: fast})
	const much = 4 << 20
	var l net.Listener
	podworld.Check(t, n.Outside.Do(func() (err error) { l, err = net.Listen("tcp", podworld.Outside+":80"); return err }))
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write(make([]byte, much))
	}()
	var c net.Conn
	podworld.Check(t, n.PodA.Do(func() (err error) { c, err = net.Dial("tcp", podworld.Outside+":80"); return err }))
	defer c.Close()
	began, got := time.Now(), 0
	for buf := make([]byte, 64<<10); got < much; {
		k, err := c.Read(buf)
		podworld.Check(t, err)
		got += k
	}
	if bound := 20e3 + 10e6*time.Since(began).Seconds(); float64(got) > bound {
		t.Errorf("%d bytes came, %.0f at most", got, bound)
	}
}

// TestNothingIsLeftOfALimitThatIsGone: also of one that an earlier process made.
func TestNothingIsLeftOfALimitThatIsGone(t *testing.T) {
	n := newNode(t)
	both := Pod{Interface: "cali0", FromPod: slow(), ToPod: slow()}
	for _, name := range []string{"by who made it", "by the next"} {
		n.apply(t, both)
		if name == "by the next" {
			n.Shaper = n.another()
		}
		n.retired = nil
		n.apply(t)
		link, err := n.LinkByName("cali0")
		podworld.Check(t, err)
		to, _, err := n.RedirectOf(t.Context(), link.Index)
		buckets, err2 := n.TokenBuckets(t.Context())
		if len(buckets) > 0 || to != 0 || len(n.retired) != 1 || errors.Join(err, err2) != nil {
			t.Errorf("%s: left are %v, rule to %d; retired %v; %v %v", name, buckets, to, n.retired, err, err2)
		}
		wantFree(t, n.PodA, n.Outside, podworld.Outside+":5000")
	}
}

// TestDriftIsMended: whatever is taken away or changed is back with the next resync, and
// said.
func TestDriftIsMended(t *testing.T) {
	n := newNode(t)
	pod := Pod{Interface: "cali0", FromPod: slow(), ToPod: slow()}
	n.apply(t, pod)
	link, err := n.LinkByName("cali0")
	podworld.Check(t, err)
	shaper := func() kernel.Link {
		l, err := n.LinkByName(shaperName("cali0"))
		podworld.Check(t, err)
		return l
	}
	for name, tamper := range map[string]func() error{
		"bucket of the node's end": func() error { return n.DeleteTokenBucket(link.Index) },
		"another rate": func() error {
			return n.SetTokenBucket(kernel.TokenBucket{Link: shaper().Index, Rate: 1e9, Burst: 1e6, Queue: 1e6})
		},
		"rule":              func() error { return n.RemoveRedirect(t.Context(), link.Index) },
		"device":            func() error { return n.DeleteLink(shaper().Index) },
		"device down":       func() error { return n.SetDown(shaper().Index) },
		"MTU of the device": func() error { return n.SetMTU(shaper().Index, 1000) },
	} {
		podworld.Check(t, tamper())
		n.log.Reset()
		n.QueueResync()
		if wrong, err := n.Check(t.Context(), pod); err != nil || len(wrong) == 0 && name != "device down" {
			t.Errorf("%s: a look at it says %v, %v", name, wrong, err)
		}
		podworld.Check(t, n.Shaper.Apply(t.Context()))
		if wrong, err := n.Check(t.Context(), pod); err != nil || len(wrong) > 0 {
			t.Errorf("%s: %v, %v", name, wrong, err)
		}
		if lines := strings.Count(n.log.String(), "mended"); lines != 1 {
			t.Errorf("%s: said\n%s", name, n.log)
		}
		wantLimited(t, n.PodA, n.Outside, podworld.Outside+":5000")
	}
}

// counting counts what is written.
type counting struct {
	Kernel
	written int
}

func (c *counting) SetTokenBucket(b kernel.TokenBucket) error {
	c.written++
	return c.Kernel.SetTokenBucket(b)
}

func (c *counting) Redirect(link, to int) error {
	c.written++
	return c.Kernel.Redirect(link, to)
}

// TestWhatIsRightIsNotWrittenAgain: neither by a resync nor by the next process.
func TestWhatIsRightIsNotWrittenAgain(t *testing.T) {
	n := newNode(t)
	pods := []Pod{{Interface: "cali0", FromPod: slow(), ToPod: Limit{Rate: 1e7, Burst: 4 << 30}}, {Interface: "cali1", ToPod: Limit{Rate: 1e6, Burst: 1e6, Peak: 2e6}}}
	n.apply(t, pods...)
	n.Shaper = n.another()
	count := &counting{Kernel: n.Handle}
	n.cfg.Kernel = count
	for range 2 {
		n.apply(t, pods...)
		n.QueueResync()
	}
	if count.written > 0 || n.log.Len() > 0 {
		t.Errorf("%d writes\n%s", count.written, n.log)
	}
	// Of a pod that is changed alone something is written.
	pods[1].ToPod.Rate = 5e5
	n.apply(t, pods...)
	if count.written != 1 {
		t.Errorf("%d writes", count.written)
	}
}

// failing has no ifb, as some kernels.
type failing struct{ Kernel }

func (failing) CreateIfb(name string, _ int) (kernel.Link, error) {
	return kernel.Link{}, kernel.NewError("create ifb", name, unix.EOPNOTSUPP)
}

func TestWhatFailsKeepsNothingElseBack(t *testing.T) {
	n := newNode(t)
	n.cfg.Kernel = failing{n.Handle}
	n.Set([]Pod{{Interface: "cali0", FromPod: slow()}, {Interface: "cali1", ToPod: slow()}})
	err := n.Shaper.Apply(t.Context())
	var which *Error
	if !errors.As(err, &which) || which.Interface != "cali0" || !strings.Contains(err.Error(), "modprobe -a ifb") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	wantLimited(t, n.Outside, n.PodB, podworld.PodB+":5000")
	n.cfg.Kernel = n.Handle
	podworld.Check(t, n.Shaper.Apply(t.Context()))
	wantLimited(t, n.PodA, n.Outside, podworld.Outside+":5000")
}

// TestBucketsOfLimits: a burst is never less than a packet, nor more than the kernel
// takes.
func TestBucketsOfLimits(t *testing.T) {
	link := kernel.Link{Index: 7, MTU: 1500}
	for name, tc := range map[string]struct {
		limit Limit
		want  kernel.TokenBucket
	}{
		"upstream's burst": {Limit{Rate: 8e6, Burst: 4 << 30}, kernel.TokenBucket{Rate: 1e6, Burst: 4294967, Queue: 32 * 1514}},
		"small burst":      {Limit{Rate: 8e8, Burst: 1e3}, kernel.TokenBucket{Rate: 1e8, Burst: 1514, Queue: 25e5}},
		"slowest":          {Limit{Rate: 1e3, Burst: 1e9}, kernel.TokenBucket{Rate: 125, Burst: 1514, Queue: 32 * 1514}},
		"peak":             {Limit{Rate: 8e6, Burst: 8e5, Peak: 16e6, PeakBurst: 1000}, kernel.TokenBucket{Rate: 1e6, Burst: 1e5, Queue: 32 * 1514, Peak: 2e6, PeakBurst: 1514}},
		"fastest":          {Limit{Rate: 1e15, Burst: 8 * (1<<32 - 1)}, kernel.TokenBucket{Rate: 125e12, Burst: 1<<32 - 1, Queue: 1<<32 - 1}},
	} {
		tc.want.Link = 7
		if got := tc.limit.bucket(link); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
	if name := shaperName("cali0123456789a"); len(name) != 15 || !strings.HasPrefix(name, "bwcali") {
		t.Errorf("a device of the name %s", name)
	}
}
