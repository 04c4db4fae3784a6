package bfd_test

import (
	"fmt"
	"testing"
	"time"

	"tortie/bgpd/bfd"
)

const (
	mine   = 11
	theirs = 22
	ms     = time.Millisecond
)

func fast() bfd.Timers { return bfd.Timers{Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3} }

// side is one session on a clock that the test moves; it never sends early: the
// jitter is none.
type side struct {
	t *testing.T
	*bfd.Session
	now time.Time
}

func newSide(t *testing.T, timers bfd.Timers) *side {
	now := time.Unix(1000, 0)
	return &side{t, bfd.NewSession(timers, mine, func() float64 { return 0 }, now), now}
}

// from is a packet of a peer with the usual timers in a state.
func from(state bfd.State) bfd.Packet {
	p := bfd.Packet{State: state, Multiplier: 3, My: theirs, Your: mine, DesiredMinTx: time.Second, RequiredMinRx: 300 * ms}
	if state == bfd.Up {
		p.DesiredMinTx = 300 * ms
	}
	return p
}

func (s *side) hear(p bfd.Packet) (bfd.Packet, bool) { return s.Receive(p, s.now) }

// pass lets time pass in steps of a millisecond, and returns when packets were sent.
func (s *side) pass(d time.Duration) (at []time.Duration, packets []bfd.Packet) {
	for begin, end := s.now, s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(ms)
		if p, ok := s.Advance(s.now); ok {
			at, packets = append(at, s.now.Sub(begin)), append(packets, p)
		}
	}
	return at, packets
}

// up brings the session up, with all that follows said and answered.
func up(t *testing.T, timers bfd.Timers) *side {
	s := newSide(t, timers)
	s.Advance(s.now)
	s.hear(from(bfd.Down))
	s.hear(from(bfd.Up))
	s.answer()
	if got := s.Status().State; got != bfd.Up {
		t.Fatalf("the session is %s", got)
	}
	return s
}

// answer is the peer's answer to a Poll Sequence, and its next packet.
func (s *side) answer() {
	p := from(bfd.Up)
	p.Final = true
	s.hear(p)
	s.hear(from(bfd.Up))
}

// TestStateMachineIsThatOfTheRFC is the diagram of RFC 5880 section 6.2 and the
// rules of section 6.8.6, line by line.
func TestStateMachineIsThatOfTheRFC(t *testing.T) {
	reach := map[bfd.State]func(*side){
		bfd.AdminDown: func(s *side) { s.Stop(s.now) },
		bfd.Down:      func(*side) {},
		bfd.Init:      func(s *side) { s.hear(from(bfd.Down)) },
		bfd.Up:        func(s *side) { s.hear(from(bfd.Init)) },
	}
	for _, tt := range []struct {
		state, heard, want bfd.State
		diag               bfd.Diag
	}{
		{bfd.Down, bfd.AdminDown, bfd.Down, bfd.DiagNone},
		{bfd.Down, bfd.Down, bfd.Init, bfd.DiagNone},
		{bfd.Down, bfd.Init, bfd.Up, bfd.DiagNone},
		{bfd.Down, bfd.Up, bfd.Down, bfd.DiagNone},
		{bfd.Init, bfd.AdminDown, bfd.Down, bfd.DiagNeighborDown},
		{bfd.Init, bfd.Down, bfd.Init, bfd.DiagNone},
		{bfd.Init, bfd.Init, bfd.Up, bfd.DiagNone},
		{bfd.Init, bfd.Up, bfd.Up, bfd.DiagNone},
		{bfd.Up, bfd.AdminDown, bfd.Down, bfd.DiagNeighborDown},
		{bfd.Up, bfd.Down, bfd.Down, bfd.DiagNeighborDown},
		{bfd.Up, bfd.Init, bfd.Up, bfd.DiagNone},
		{bfd.Up, bfd.Up, bfd.Up, bfd.DiagNone},
		{bfd.AdminDown, bfd.AdminDown, bfd.AdminDown, bfd.DiagAdminDown},
		{bfd.AdminDown, bfd.Down, bfd.AdminDown, bfd.DiagAdminDown},
		{bfd.AdminDown, bfd.Init, bfd.AdminDown, bfd.DiagAdminDown},
		{bfd.AdminDown, bfd.Up, bfd.AdminDown, bfd.DiagAdminDown},
	} {
		t.Run(fmt.Sprintf("%s hears %s", tt.state, tt.heard), func(t *testing.T) {
			s := newSide(t, fast())
			reach[tt.state](s)
			if got := s.Status().State; got != tt.state {
				t.Fatalf("is %s before", got)
			}
			s.hear(from(tt.heard))
			if got := s.Status(); got.State != tt.want || got.Diag != tt.diag {
				t.Errorf("is %s (%s), want %s (%s)", got.State, got.Diag, tt.want, tt.diag)
			}
		})
	}
}

func TestSilenceOfADetectionTimeIsAFailure(t *testing.T) {
	for _, tt := range []struct {
		name     string
		rx, tx   time.Duration // our Required Min RX, the peer's Desired Min TX
		mult     uint8         // the peer's
		detected time.Duration
	}{
		{"equal timers", 300 * ms, 300 * ms, 3, 900 * ms},
		{"the peer sends more slowly", 300 * ms, 500 * ms, 3, 1500 * ms},
		{"we want less", 400 * ms, 100 * ms, 3, 1200 * ms},
		{"the peer's multiplier counts, not ours", 300 * ms, 300 * ms, 5, 1500 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := up(t, bfd.Timers{Transmit: 300 * ms, Receive: tt.rx, Multiplier: 3})
			p := from(bfd.Up)
			p.DesiredMinTx, p.Multiplier = tt.tx, tt.mult
			s.hear(p)
			s.pass(tt.detected - ms)
			if got := s.Status(); got.State != bfd.Up || got.Detection != tt.detected {
				t.Fatalf("%s, detection time %s just before the end of %s", got.State, got.Detection, tt.detected)
			}
			_, sent := s.pass(ms)
			got := s.Status()
			if got.State != bfd.Down || got.Diag != bfd.DiagExpired || got.Failures != 1 {
				t.Errorf("%s (%s), %d failures after it", got.State, got.Diag, got.Failures)
			}
			if len(sent) != 1 || sent[0].State != bfd.Down || sent[0].Your != 0 {
				t.Errorf("told the peer %+v, want Down at once, and no discriminator of a peer that is gone", sent)
			}
		})
	}
}

func TestSilenceInInitIsNoFailureOfASessionThatWasUp(t *testing.T) {
	s := newSide(t, fast())
	s.Advance(s.now)
	s.hear(from(bfd.Down))
	s.pass(3*time.Second + ms)
	if got := s.Status(); got.State != bfd.Down || got.Diag != bfd.DiagExpired || got.Failures != 0 {
		t.Errorf("%s (%s), %d failures", got.State, got.Diag, got.Failures)
	}
}

func TestAdminDownOfThePeerIsNoFailure(t *testing.T) {
	s := up(t, fast())
	s.hear(from(bfd.AdminDown))
	if got := s.Status(); got.State != bfd.Down || got.Failures != 0 || got.Peer != bfd.AdminDown {
		t.Errorf("%s, %d failures, peer %s", got.State, got.Failures, got.Peer)
	}
}

func TestPeerThatSaysDownIsAFailure(t *testing.T) {
	s := up(t, fast())
	s.hear(from(bfd.Down))
	if got := s.Status(); got.State != bfd.Down || got.Failures != 1 {
		t.Errorf("%s, %d failures", got.State, got.Failures)
	}
}

func TestStoppedSessionTellsThePeerAndComesBack(t *testing.T) {
	s := up(t, fast())
	s.Stop(s.now)
	p, ok := s.Advance(s.now)
	if !ok || p.State != bfd.AdminDown || p.Diag != bfd.DiagAdminDown {
		t.Fatalf("said %+v, %t", p, ok)
	}
	if at, _ := s.pass(s.Linger()); len(at) < 3 {
		t.Errorf("in %s it said so again at %v only: the peer may have lost it", s.Linger(), at)
	}
	if got := s.Status().Failures; got != 0 {
		t.Errorf("%d failures", got)
	}
	s.Start(s.now)
	s.hear(from(bfd.Down))
	s.hear(from(bfd.Init))
	if got := s.Status().State; got != bfd.Up {
		t.Errorf("%s after it is wanted again", got)
	}
}

func TestSessionThatIsNotUpSendsOnceASecondAtMost(t *testing.T) {
	s := newSide(t, bfd.Timers{Transmit: 50 * ms, Receive: 50 * ms, Multiplier: 3})
	if p, ok := s.Advance(s.now); !ok || p.DesiredMinTx != time.Second || p.RequiredMinRx != 50*ms || p.My != mine {
		t.Fatalf("begins with %+v, %t", p, ok)
	}
	at, _ := s.pass(5 * time.Second)
	if len(at) != 5 || at[0] != time.Second {
		t.Errorf("sent at %v", at)
	}
}

func TestIntervalsHaveTheJitterOfTheRFC(t *testing.T) {
	for _, tt := range []struct {
		multiplier     uint8
		random         float64
		least, longest time.Duration
	}{
		{3, 0, 1000 * ms, 1000 * ms},
		{3, 0.999, 750 * ms, 751 * ms},
		{3, 0.5, 875 * ms, 875 * ms},
		{1, 0, 900 * ms, 900 * ms},
		{1, 0.999, 750 * ms, 751 * ms},
	} {
		timers := fast()
		timers.Multiplier = tt.multiplier
		s := newSide(t, timers)
		s.Session = bfd.NewSession(timers, mine, func() float64 { return tt.random }, s.now)
		s.Advance(s.now)
		if at, _ := s.pass(1100 * ms); len(at) == 0 || at[0] < tt.least || at[0] > tt.longest {
			t.Errorf("multiplier %d, random %v: sent at %v, want at %s to %s", tt.multiplier, tt.random, at, tt.least, tt.longest)
		}
	}
}

func TestGreaterOfBothIntervalsCounts(t *testing.T) {
	s := up(t, fast())
	for _, tt := range []struct{ wants, sends time.Duration }{{100 * ms, 300 * ms}, {700 * ms, 700 * ms}, {400 * ms, 400 * ms}} {
		p := from(bfd.Up)
		p.RequiredMinRx, p.Multiplier = tt.wants, 255
		s.hear(p)
		s.pass(time.Second) // the schedule so far
		at, _ := s.pass(3 * time.Second)
		if len(at) < 2 || at[1]-at[0] != tt.sends {
			t.Errorf("peer wants %s: sent at %v, want every %s", tt.wants, at, tt.sends)
		}
	}
}

func TestPeerThatWantsNoPacketsGetsNoneOfTheSchedule(t *testing.T) {
	s := up(t, fast())
	p := from(bfd.Up)
	p.RequiredMinRx, p.Multiplier = 0, 255
	s.hear(p)
	if at, _ := s.pass(5 * time.Second); len(at) != 0 {
		t.Errorf("sent at %v", at)
	}
}

func TestStateChangesAreToldAtOnce(t *testing.T) {
	s := newSide(t, fast())
	s.Advance(s.now)
	for _, tt := range []struct{ heard, said bfd.State }{{bfd.Down, bfd.Init}, {bfd.Init, bfd.Up}, {bfd.Down, bfd.Down}} {
		if p, ok := s.hear(from(tt.heard)); !ok || p.State != tt.said || p.Your != theirs {
			t.Errorf("heard %s: said %+v, %t; want %s", tt.heard, p, ok, tt.said)
		}
	}
	if p, ok := s.hear(from(bfd.AdminDown)); ok {
		t.Errorf("nothing changed, but said %+v", p)
	}
}

func TestPollIsAnsweredAtOnce(t *testing.T) {
	s := up(t, fast())
	p := from(bfd.Up)
	p.Poll = true
	if got, ok := s.hear(p); !ok || !got.Final || got.Poll || got.State != bfd.Up || got.Your != theirs {
		t.Errorf("answered %+v, %t", got, ok)
	}
}

func TestChangedTimersArePolledUntilAnswered(t *testing.T) {
	s := newSide(t, fast())
	s.Advance(s.now)
	s.hear(from(bfd.Down))
	p, ok := s.hear(from(bfd.Up))
	if !ok || !p.Poll || p.DesiredMinTx != 300*ms {
		t.Fatalf("on coming up said %+v, %t; want the fast interval, polled", p, ok)
	}
	if _, packets := s.pass(700 * ms); len(packets) != 2 || !packets[0].Poll || !packets[1].Poll {
		t.Errorf("unanswered, went on with %+v", packets)
	}
	s.answer()
	if _, packets := s.pass(700 * ms); len(packets) != 2 || packets[0].Poll || packets[1].Poll {
		t.Errorf("answered, went on with %+v", packets)
	}
}

// TestTimersThatCouldHurtWaitForThePeer is RFC 5880 section 6.8.3: a peer that
// doesn't know yet that packets will be rarer must not miss any, and one that
// doesn't know yet that more are wanted must not be found late.
func TestTimersThatCouldHurtWaitForThePeer(t *testing.T) {
	for _, tt := range []struct {
		name          string
		timers        bfd.Timers
		before, after [2]time.Duration // interval, detection time
	}{
		{"slower", bfd.Timers{Transmit: 500 * ms, Receive: 500 * ms, Multiplier: 3}, [2]time.Duration{300 * ms, 1500 * ms}, [2]time.Duration{500 * ms, 1500 * ms}},
		{"faster", bfd.Timers{Transmit: 200 * ms, Receive: 200 * ms, Multiplier: 3}, [2]time.Duration{300 * ms, 900 * ms}, [2]time.Duration{300 * ms, 900 * ms}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := up(t, fast())
			s.SetTimers(tt.timers)
			p, ok := s.Advance(s.now)
			if !ok || !p.Poll || p.DesiredMinTx != tt.timers.Transmit || p.RequiredMinRx != tt.timers.Receive {
				t.Fatalf("said %+v, %t; want a poll with the new timers at once", p, ok)
			}
			if got := s.Status(); got.Transmit != tt.before[0] || got.Detection != tt.before[1] {
				t.Errorf("before the answer: interval %s, detection time %s, want %s", got.Transmit, got.Detection, tt.before)
			}
			s.answer()
			if got := s.Status(); got.Transmit != tt.after[0] || got.Detection != tt.after[1] {
				t.Errorf("after the answer: interval %s, detection time %s, want %s", got.Transmit, got.Detection, tt.after)
			}
		})
	}
}

func TestReducedReceiveIntervalCountsAfterTheAnswer(t *testing.T) {
	s := up(t, fast())
	p := from(bfd.Up)
	p.DesiredMinTx = 10 * ms
	s.hear(p)
	s.SetTimers(bfd.Timers{Transmit: 300 * ms, Receive: 100 * ms, Multiplier: 3})
	if got := s.Status().Detection; got != 900*ms {
		t.Errorf("before the answer: %s, want 900ms", got)
	}
	p.Final = true
	s.hear(p)
	if got := s.Status().Detection; got != 300*ms {
		t.Errorf("after the answer: %s, want 300ms", got)
	}
}

// TestChangeDuringAPollIsPolledByItself: the answer that comes may be to the packet
// before the change.
func TestChangeDuringAPollIsPolledByItself(t *testing.T) {
	s := up(t, fast())
	s.SetTimers(bfd.Timers{Transmit: 400 * ms, Receive: 300 * ms, Multiplier: 3})
	s.Advance(s.now)
	s.SetTimers(bfd.Timers{Transmit: 500 * ms, Receive: 300 * ms, Multiplier: 3})
	final := from(bfd.Up)
	final.Final = true
	s.hear(final)
	if got := s.Status().Transmit; got != 300*ms {
		t.Errorf("after the first answer the interval is %s already", got)
	}
	if p, _ := s.Advance(s.now); p.Poll {
		t.Error("polls again before the peer's last answer is known to be over")
	}
	s.hear(from(bfd.Up))
	if _, packets := s.pass(300 * ms); len(packets) != 1 || !packets[0].Poll {
		t.Errorf("then sent %+v, want a second Poll Sequence", packets)
	}
	s.hear(final)
	if got := s.Status().Transmit; got != 500*ms {
		t.Errorf("after the second answer the interval is %s", got)
	}
}

func TestDemandModeOfThePeerIsHonoured(t *testing.T) {
	s := up(t, fast())
	p := from(bfd.Up)
	p.Demand, p.Multiplier = true, 255
	s.hear(p)
	if at, _ := s.pass(5 * time.Second); len(at) != 0 {
		t.Errorf("sent at %v although the peer asked for no packets", at)
	}
	p.Poll = true
	if got, ok := s.hear(p); !ok || !got.Final {
		t.Errorf("poll answered by %+v, %t", got, ok)
	}
	s.SetTimers(bfd.Timers{Transmit: 400 * ms, Receive: 300 * ms, Multiplier: 3})
	if at, packets := s.pass(time.Second); len(at) < 3 || !packets[0].Poll {
		t.Errorf("a change of ours was polled at %v", at)
	}
	p.Poll = false
	for i := range 2 {
		p.Final = i == 0
		s.hear(p)
	}
	if at, _ := s.pass(5 * time.Second); len(at) != 0 {
		t.Errorf("sent at %v after the answer", at)
	}
	p.Demand, p.Final = false, false
	s.hear(p)
	if at, _ := s.pass(time.Second); len(at) < 2 {
		t.Errorf("sent at %v after the end of Demand mode", at)
	}
}

func TestPeerThatIsHeardAgainIsTakenForANewOne(t *testing.T) {
	s := up(t, fast())
	s.pass(time.Second)
	p := from(bfd.Down)
	p.My, p.Your = 33, 0
	if got, ok := s.hear(p); !ok || got.Your != 33 || got.State != bfd.Init {
		t.Errorf("said %+v, %t", got, ok)
	}
}

func TestNextNamesTheTimeOfTheNextStep(t *testing.T) {
	s := up(t, fast())
	s.pass(300 * ms)
	last := s.now
	if got := s.Next(); got.After(last.Add(300*ms)) || !got.After(last) {
		t.Errorf("in %s, want the next packet", got.Sub(last))
	}
	p := from(bfd.Up)
	p.Demand = true
	s.hear(p)
	if got := s.Next(); !got.Equal(s.now.Add(900 * ms)) {
		t.Errorf("in %s, want the end of the detection time", got.Sub(s.now))
	}
}
