package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"tortie/tests/lab/agentwire"
)

// server is one agent.
type server struct {
	name    string
	control string
	host    string
	port    int
}

// lookupTimeout bounds the resolution of a name.
const lookupTimeout = 10 * time.Second

// serve answers probes and requests until ctx ends. Its control socket appears
// only when both probe listeners are up, so that who sees the socket may probe.
func serve(ctx context.Context, s server) error {
	addr := net.JoinHostPort(s.host, strconv.Itoa(s.port))
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for TCP probes on %s: %w", addr, err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return fmt.Errorf("listen for UDP probes on %s: %w", addr, err)
	}
	defer udp.Close()
	deepen(udp.(*net.UDPConn))
	go s.answerTCP(tcp)
	go s.answerUDP(udp.(*net.UDPConn))

	if err := os.Remove(s.control); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ctl, err := net.Listen("unix", s.control)
	if err != nil {
		return fmt.Errorf("listen for requests: %w", err)
	}
	go func() {
		<-ctx.Done()
		ctl.Close()
	}()
	streams := newStreams()
	for {
		conn, err := ctl.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go handle(ctx, conn, streams)
	}
}

// deep is a receive buffer that holds what comes in seconds.
const deep = 8 << 20

// deepen has a socket lose nothing while its process waits for a processor, for what
// is measured is the network. Without CAP_NET_ADMIN the usual buffer has to do.
func deepen(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, deep) })
}

// answerTCP tells each caller, once per line received, where it came from.
func (s server) answerTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			seen := addrOf(conn.RemoteAddr())
			dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
			for {
				var a agentwire.Answer
				if dec.Decode(&a) != nil {
					return
				}
				a.Seen, a.By = seen, s.name
				if enc.Encode(a) != nil {
					return
				}
			}
		}()
	}
}

// answerUDP answers each datagram from the address it was sent to.
func (s server) answerUDP(conn *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		var a agentwire.Answer
		if json.Unmarshal(buf[:n], &a) != nil {
			continue
		}
		a.Seen, a.By = from.Addr().Unmap(), s.name
		if out, err := json.Marshal(a); err == nil {
			_, _ = conn.WriteToUDPAddrPort(out, from)
		}
	}
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// handle carries out one request of the lab.
func handle(ctx context.Context, conn net.Conn, streams *streams) {
	defer conn.Close()
	var req agentwire.Request
	var resp agentwire.Response
	if err := json.NewDecoder(conn).Decode(&req); err != nil {
		resp.Err = "request: " + err.Error()
	} else {
		resp = do(ctx, req, streams)
	}
	_ = json.NewEncoder(conn).Encode(resp)
}

func do(ctx context.Context, req agentwire.Request, streams *streams) agentwire.Response {
	var resp agentwire.Response
	switch {
	case req.StartStream != nil:
		if err := streams.start(*req.StartStream); err != nil {
			resp.Err = err.Error()
		}
	case req.StopStream != "":
		report, err := streams.stop(req.StopStream)
		if err != nil {
			resp.Err = err.Error()
		}
		resp.Stream = report
	case req.Lookup != "":
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", req.Lookup)
		if err != nil {
			resp.Err = err.Error()
		}
		for _, a := range addrs {
			resp.Addresses = append(resp.Addresses, a.Unmap())
		}
	default:
		resp.Results = probeAll(req.Probes)
	}
	return resp
}
