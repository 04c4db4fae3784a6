package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"tortie/tests/lab/agentwire"
)

// lastAnswers is how long a stopped stream waits for answers still under way.
const lastAnswers = 2 * time.Second

// streams are the running streams of one agent, by ID.
type streams struct {
	mu      sync.Mutex
	running map[string]*stream
}

func newStreams() *streams { return &streams{running: map[string]*stream{}} }

// stream sends numbered packets and remembers which were answered.
type stream struct {
	spec agentwire.Stream
	conn net.Conn
	quit chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex
	sent     int
	answered map[int]bool
	last     time.Time
	gap      time.Duration
	err      error
}

func (s *streams) start(spec agentwire.Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.running[spec.ID]; ok {
		return fmt.Errorf("stream %q runs already", spec.ID)
	}
	conn, err := net.DialTimeout(spec.Network, spec.Target.String(), 5*time.Second)
	if err != nil {
		return err
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		deepen(udp)
	}
	st := &stream{spec: spec, conn: conn, quit: make(chan struct{}), answered: map[int]bool{}, last: time.Now()}
	st.done.Go(st.send)
	go st.receive()
	s.running[spec.ID] = st
	return nil
}

func (s *streams) stop(id string) (*agentwire.StreamReport, error) {
	s.mu.Lock()
	st, ok := s.running[id]
	delete(s.running, id)
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no stream %q", id)
	}
	return st.finish(), nil
}

func (st *stream) send() {
	tick := time.NewTicker(st.spec.Interval)
	defer tick.Stop()
	enc := json.NewEncoder(st.conn)
	for {
		select {
		case <-st.quit:
			return
		case <-tick.C:
		}
		st.mu.Lock()
		st.sent++
		seq := st.sent
		st.mu.Unlock()
		// A refused or unreachable datagram counts as lost, by its missing answer.
		if err := enc.Encode(agentwire.Answer{Seq: seq}); err != nil && st.spec.Network == "tcp" {
			st.fail(err)
			return
		}
	}
}

func (st *stream) receive() {
	buf := make([]byte, 2048)
	dec := json.NewDecoder(st.conn)
	for {
		var a agentwire.Answer
		var err error
		if st.spec.Network == "udp" {
			var n int
			if n, err = st.conn.Read(buf); err == nil {
				err = json.Unmarshal(buf[:n], &a)
			} else if !timedOut(err) {
				// An ICMP error for one datagram: the stream goes on, unless closed.
				select {
				case <-st.quit:
					return
				default:
					continue
				}
			}
		} else {
			err = dec.Decode(&a)
		}
		if err != nil {
			st.fail(err)
			return
		}
		st.mu.Lock()
		now := time.Now()
		st.gap = max(st.gap, now.Sub(st.last))
		st.last, st.answered[a.Seq] = now, true
		st.mu.Unlock()
	}
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (st *stream) fail(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		st.err = err
	}
}

// finish stops sending, waits for the last answers and reports.
func (st *stream) finish() *agentwire.StreamReport {
	close(st.quit)
	st.done.Wait()
	st.mu.Lock()
	failed := st.err
	st.mu.Unlock()
	for end := time.Now().Add(lastAnswers); time.Now().Before(end) && !st.complete(); {
		time.Sleep(10 * time.Millisecond)
	}
	st.conn.Close()
	st.mu.Lock()
	defer st.mu.Unlock()
	r := &agentwire.StreamReport{Sent: st.sent, Answered: len(st.answered), LongestGap: st.gap}
	if failed != nil {
		r.Err = failed.Error()
	}
	r.Lost, r.LongestLoss = lost(st.answered, st.sent)
	return r
}

// maxLost is how many numbers of lost packets a report has.
const maxLost = 100

// lost are the numbers of the packets that were not answered, and how many at most
// were lost in a row, the last ones included.
func lost(answered map[int]bool, sent int) (numbers []int, longest int) {
	row := 0
	for seq := 1; seq <= sent; seq++ {
		if answered[seq] {
			row = 0
			continue
		}
		if row++; row > longest {
			longest = row
		}
		if len(numbers) < maxLost {
			numbers = append(numbers, seq)
		}
	}
	return numbers, longest
}

func (st *stream) complete() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.answered) == st.sent
}
