// Package bandwidth keeps what pods send and receive within a bandwidth each, by token
// buckets (tc's tbf): one on the node's end of the pod for what comes to the pod, and for
// what the pod sends one on a device of its own (ifb), which all that the pod sends is led
// through. This is how upstream and the reference plugin bandwidth do it.
//
// Ours are known by their marks, without memory: the handle of a bucket, the priority of
// the rule that leads, and the name of the device. Others' are not touched, but for what
// they put in the place of a bucket that should be there. A pod without a bandwidth has
// nothing of this.
package bandwidth

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// Limit is one direction's, as an endpoint's record has it; the zero value is none.
type Limit struct {
	Rate, Burst int64 // bits a second, bits
	Peak        int64 // bits a second; 0 for none
	PeakBurst   int64 // bytes
}

// Pod is a pod with a bandwidth.
type Pod struct {
	Interface string // the node's end
	Link      int    // its index, by which a pod's next device is told from its last
	// ToPod is for what comes to the pod, FromPod for what it sends.
	ToPod, FromPod Limit
}

// Kernel is what is read and changed; *kernel.Handle is one.
type Kernel interface {
	Links() ([]kernel.Link, error)
	CreateIfb(name string, mtu int) (kernel.Link, error)
	SetUp(index int) error
	SetMTU(index, mtu int) error
	TokenBuckets(ctx context.Context) ([]kernel.TokenBucket, error)
	SetTokenBucket(b kernel.TokenBucket) error
	DeleteTokenBucket(link int) error
	RedirectOf(ctx context.Context, link int) (to int, others bool, err error)
	Redirect(link, to int) error
	RemoveRedirect(ctx context.Context, link int) error
}

// Config is what a Shaper needs.
type Config struct {
	Kernel Kernel
	// Retire takes a device that is no longer needed out of service, and deletes it
	// when it suits.
	Retire func(l kernel.Link) error
	Log    *slog.Logger
}

// Shaper reconciles the kernel with the bandwidths of this node's pods. Its methods may be
// called from any goroutine; while Apply runs the others wait.
type Shaper struct {
	cfg Config

	mu      sync.Mutex
	desired map[string]Pod
	// done are those that stand in the kernel, as far as nobody else changed them.
	done map[string]Pod
	// known: done is all there is of ours. It is not at first, and when a resync is
	// asked for.
	known bool
	begun bool
}

// New makes a Shaper of no pod yet. Nothing is read or written before the first Apply.
func New(cfg Config) *Shaper { return &Shaper{cfg: cfg} }

// Error says whose bandwidth is not as it should be.
type Error struct {
	Interface string
	Err       error
}

// Error is one line for the operator.
func (e *Error) Error() string {
	advice := ""
	if errors.Is(e.Err, unix.ENOENT) || errors.Is(e.Err, kernel.ErrNotSupported) {
		advice = "; load the kernel's modules (modprobe -a ifb sch_tbf sch_ingress cls_u32 act_mirred), or take the pod's bandwidth away"
	}
	return fmt.Sprintf("limit the bandwidth of %s: %v%s", e.Interface, e.Err, advice)
}

// OnInterface is whose it is.
func (e *Error) OnInterface() string { return e.Interface }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Set declares all pods with a bandwidth.
func (s *Shaper) Set(pods []Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired = make(map[string]Pod, len(pods))
	for _, p := range pods {
		if p.ToPod != (Limit{}) || p.FromPod != (Limit{}) {
			s.desired[p.Interface] = p
		}
	}
}

// QueueResync makes the next Apply compare all that is there.
func (s *Shaper) QueueResync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = false
}

// Apply makes the kernel as declared. What is right is not written again. What fails is
// told by an [Error] each, keeps nothing else back, and is tried again by the next Apply.
func (s *Shaper) Apply(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known && maps.Equal(s.desired, s.done) {
		return nil
	}
	there, err := s.look(ctx)
	if err != nil {
		return fmt.Errorf("limit the bandwidth of pods: %w", err)
	}
	var errs []error
	for _, name := range there.pods(s.desired) {
		had, is := s.done[name]
		want, wanted := s.desired[name]
		if s.known && is == wanted && had == want {
			continue
		}
		changed, err := s.pod(ctx, there, name, want)
		if err != nil {
			delete(s.done, name)
			errs = append(errs, &Error{Interface: name, Err: err})
			continue
		}
		if len(changed) > 0 && s.begun && is && had == want {
			s.cfg.Log.Warn("a pod's bandwidth mended: someone had changed it", "iface", name, "differed", strings.Join(changed, ", "))
		}
		if wanted {
			there.settled[name] = want
		}
	}
	errs = append(errs, s.retireOthers(there))
	err = errors.Join(errs...)
	s.done, s.begun = there.settled, true
	s.known = err == nil
	return err
}

// view is what there is in the kernel.
type view struct {
	links   map[string]kernel.Link // pods' and ours
	buckets map[int]kernel.TokenBucket
	// settled are the pods that are as they should be.
	settled map[string]Pod
}

func (s *Shaper) look(ctx context.Context) (view, error) {
	v := view{links: map[string]kernel.Link{}, buckets: map[int]kernel.TokenBucket{}, settled: map[string]Pod{}}
	links, err := s.cfg.Kernel.Links()
	if err != nil {
		return v, err
	}
	for _, l := range links {
		if l.Kind == "veth" && strings.HasPrefix(l.Name, kernel.PodLink) || isShaper(l) {
			v.links[l.Name] = l
		}
	}
	buckets, err := s.cfg.Kernel.TokenBuckets(ctx)
	for _, b := range buckets {
		v.buckets[b.Link] = b
	}
	for name, p := range s.done {
		if _, is := v.links[name]; is && s.known && s.desired[name] == p {
			v.settled[name] = p
		}
	}
	return v, err
}

func isShaper(l kernel.Link) bool {
	return l.Kind == "ifb" && strings.HasPrefix(l.Name, kernel.PodShaper)
}

// pods are the pods' devices that should have a bandwidth or have something of one.
func (v view) pods(desired map[string]Pod) []string {
	var names []string
	for name, l := range v.links {
		_, wanted := desired[name]
		_, shaped := v.buckets[l.Index]
		_, shaper := v.links[shaperName(name)]
		if !isShaper(l) && (wanted || shaped || shaper) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// pod makes one pod's as it should be, and names what was not.
func (s *Shaper) pod(ctx context.Context, there view, name string, want Pod) (changed []string, err error) {
	link := there.links[name]
	differs, err := s.bucket(there, link, want.ToPod)
	if err != nil {
		return nil, err
	}
	changed = append(changed, differs...)
	if want.FromPod == (Limit{}) {
		return changed, s.cfg.Kernel.RemoveRedirect(ctx, link.Index) // the device goes with the others that nobody needs
	}
	shaper, differs, err := s.shaper(there, link)
	if err != nil {
		return nil, err
	}
	changed = append(changed, differs...)
	if differs, err = s.bucket(there, shaper, want.FromPod); err != nil {
		return nil, err
	}
	changed = append(changed, differs...)
	to, _, err := s.cfg.Kernel.RedirectOf(ctx, link.Index)
	if err != nil || to == shaper.Index {
		return changed, err
	}
	if err := s.cfg.Kernel.RemoveRedirect(ctx, link.Index); err != nil {
		return nil, err
	}
	return append(changed, "rule"), s.cfg.Kernel.Redirect(link.Index, shaper.Index)
}

// bucket makes a link's as it should be.
func (s *Shaper) bucket(there view, link kernel.Link, want Limit) (changed []string, err error) {
	have, is := there.buckets[link.Index]
	if want == (Limit{}) {
		if is {
			return []string{"token bucket of " + link.Name}, s.cfg.Kernel.DeleteTokenBucket(link.Index)
		}
		return nil, nil
	}
	b := want.bucket(link)
	if is && have.Like(b) {
		return nil, nil
	}
	return []string{"token bucket of " + link.Name}, s.cfg.Kernel.SetTokenBucket(b)
}

// shaper makes the device that a pod sends through.
func (s *Shaper) shaper(there view, pod kernel.Link) (l kernel.Link, changed []string, err error) {
	name := shaperName(pod.Name)
	l, is := there.links[name]
	if !is {
		l, err = s.cfg.Kernel.CreateIfb(name, pod.MTU)
		return l, []string{"device " + name}, err
	}
	if !l.Up {
		changed, err = []string{"device " + name}, s.cfg.Kernel.SetUp(l.Index)
	}
	if err == nil && l.MTU != pod.MTU {
		changed, err = []string{"device " + name}, s.cfg.Kernel.SetMTU(l.Index, pod.MTU)
		l.MTU = pod.MTU
	}
	return l, changed, err
}

// retireOthers takes the devices out of service that no pod sends through.
func (s *Shaper) retireOthers(there view) error {
	needed := map[string]bool{}
	for name, p := range s.desired {
		if p.FromPod != (Limit{}) {
			needed[shaperName(name)] = true
		}
	}
	var errs []error
	for name, l := range there.links {
		if isShaper(l) && !needed[name] {
			errs = append(errs, s.cfg.Retire(l))
		}
	}
	return errors.Join(errs...)
}

// Check names what of a pod's bandwidth is not as it should be.
func (s *Shaper) Check(ctx context.Context, p Pod) (differences []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there, err := s.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the bandwidth of %s: %w", p.Interface, err)
	}
	link := there.links[p.Interface]
	shaper := there.links[shaperName(p.Interface)]
	for _, way := range []struct {
		what string
		link kernel.Link
		want Limit
	}{{"what comes to the pod", link, p.ToPod}, {"what the pod sends", shaper, p.FromPod}} {
		have, is := there.buckets[way.link.Index]
		if way.want != (Limit{}) && !(is && have.Like(way.want.bucket(way.link))) {
			differences = append(differences, "the bandwidth of "+way.what+" is not limited as it should be")
		}
	}
	if p.FromPod == (Limit{}) || len(differences) > 0 {
		return differences, nil
	}
	to, _, err := s.cfg.Kernel.RedirectOf(ctx, link.Index)
	if err == nil && to != shaper.Index {
		differences = append(differences, "what the pod sends is not led through "+shaper.Name)
	}
	return differences, err
}

const (
	// longestBurst is what the kernel takes of a burst that upstream asks for: the time
	// that it takes at the rate, in nanoseconds, is to fit 32 bits.
	longestBurst = (1<<32 - 1) / 1e9
	// header is what Ethernet puts before a packet.
	header = 14
	// A queue holds what goes within a while, and some packets at least.
	queueTime, queuePackets = 0.025, 32
)

// bucket is what keeps a link within a limit. A burst is never less than one packet: it
// could not be sent.
func (l Limit) bucket(link kernel.Link) kernel.TokenBucket {
	rate, packet := float64(l.Rate)/8, float64(link.MTU+header)
	b := kernel.TokenBucket{
		Link: link.Index, Rate: uint64(rate),
		Burst: whole(max(min(float64(l.Burst)/8, rate*longestBurst), packet)),
		Queue: whole(max(rate*queueTime, queuePackets*packet)),
	}
	if l.Peak > 0 {
		b.Peak, b.PeakBurst = uint64(l.Peak)/8, whole(max(float64(l.PeakBurst), packet))
	}
	return b
}

func whole(n float64) uint32 { return uint32(min(n, math.MaxUint32)) }

// shaperName is upstream's name of the device that a pod sends through.
func shaperName(iface string) string {
	sum := sha512.Sum512([]byte(iface))
	return kernel.PodShaper + hex.EncodeToString(sum[:])[:unix.IFNAMSIZ-1-len(kernel.PodShaper)]
}
