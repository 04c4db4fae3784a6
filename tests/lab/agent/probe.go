package main

import (
	"encoding/json"
	"net"
	"sync"
	"time"

	"tortie/tests/lab/agentwire"
)

// probesAtOnce bounds the sockets an agent has open for probes.
const probesAtOnce = 64

// probeAll carries out the probes and returns their results in the same order.
func probeAll(probes []agentwire.Probe) []agentwire.Result {
	results := make([]agentwire.Result, len(probes))
	slots := make(chan struct{}, probesAtOnce)
	var wg sync.WaitGroup
	for i, p := range probes {
		slots <- struct{}{}
		wg.Go(func() {
			results[i] = probe(p)
			<-slots
		})
	}
	wg.Wait()
	return results
}

// probe makes one exchange. A UDP probe is sent again each fifth of the timeout,
// because a first packet may be dropped while a neighbour is resolved.
func probe(p agentwire.Probe) agentwire.Result {
	start := time.Now()
	answer, err := exchange(p, start.Add(p.Timeout))
	r := agentwire.Result{Seen: answer.Seen, By: answer.By, RTT: time.Since(start)}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

func exchange(p agentwire.Probe, deadline time.Time) (agentwire.Answer, error) {
	var answer agentwire.Answer
	conn, err := net.DialTimeout(p.Network, p.Target.String(), p.Timeout)
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	tries := 1
	if p.Network == "udp" {
		tries = 5
	}
	for try := range tries {
		if err = json.NewEncoder(conn).Encode(agentwire.Answer{}); err != nil {
			continue
		}
		until := deadline
		if try < tries-1 {
			until = time.Now().Add(p.Timeout / time.Duration(tries))
		}
		if err = conn.SetReadDeadline(until); err != nil {
			return answer, err
		}
		buf := make([]byte, 2048)
		var n int
		if n, err = conn.Read(buf); err == nil {
			return answer, json.Unmarshal(buf[:n], &answer)
		}
	}
	return answer, err
}
