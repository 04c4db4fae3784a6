package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"tortie/bgpd/daemon"
	"tortie/bgpd/secrets"
	"tortie/bgpd/speaker"
	"tortie/internal/api"
	"tortie/internal/datastore/memory"
	"tortie/tests/bench/lightpeer"
)

// ServeNode is the body of a process that is the bgpd of a node: args are its name and its
// status socket. Its datastore is in its own memory, so that no etcd is measured, and
// filled from stdin: a line "PATH VALUE" is a write, an empty one the end of what was
// there before the start.
func ServeNode(ctx context.Context, args []string, stdin io.Reader) error {
	if len(args) != 2 {
		return errors.New("want a node's name and a socket")
	}
	store := memory.New(api.NewRegistry())
	lines := bufio.NewScanner(stdin)
	lines.Buffer(nil, 1<<20)
	put := func() bool {
		path, value, ok := strings.Cut(lines.Text(), " ")
		if ok {
			store.RawPut(path, []byte(value))
		}
		return ok
	}
	for lines.Scan() && put() {
	}
	go func() {
		for lines.Scan() {
			put()
		}
	}()
	return daemon.RunNode(ctx, daemon.Node{
		Name: args[0], Client: store, Datastore: "memory", Socket: args[1], Version: "bench", Secrets: secrets.Files{},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// ServeRouter is the body of a process that is a bgpd without a datastore: args are its
// address, and those of the light peers it has sessions with.
func ServeRouter(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("want an address and those of peers")
	}
	local, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	st := daemon.Static{
		Name:   "router",
		Global: speaker.Global{ASN: lightpeer.ASN, RouterID: local, Listen: []netip.Addr{local}, Port: 179},
		Log:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	for _, text := range args[1:] {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("peer: %w", err)
		}
		st.Peers = append(st.Peers, speaker.Peer{Address: addr, LocalAddress: local, ASN: lightpeer.ASN, Passive: true, RestartTime: 2 * time.Minute})
	}
	return daemon.RunStatic(ctx, st)
}
