package onepeer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/log"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// GoBGP is the library alone: it learns the routes and tells of each, and nobody does
// anything with them. What it takes, no bgpd made with it can do without. The program is
// this one, which runs ServeGoBGP with the argument after arg.
func GoBGP(arg string) Receiver {
	return Receiver{
		Name: "GoBGP",
		command: func(ctx context.Context, dir string) (*exec.Cmd, error) {
			self, err := os.Executable()
			return exec.CommandContext(ctx, self, arg, countFile(dir)), err
		},
		routes: func(_ int, dir string) (int, error) {
			text, err := os.ReadFile(countFile(dir))
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(string(text))
		},
	}
}

func countFile(dir string) string { return filepath.Join(dir, "count") }

// ServeGoBGP is the body of the program that [GoBGP] starts. It writes how many routes it
// knows to a file, again and again.
func ServeGoBGP(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("want a file to count in")
	}
	if err := writeCount(args[0], 0); err != nil {
		return err
	}
	s := server.NewBgpServer(server.LoggerOption(silent{}))
	go s.Serve()
	err := s.StartBgp(ctx, &gobgpapi.StartBgpRequest{Global: &gobgpapi.Global{
		Asn: asn, RouterId: receiverAddress, ListenPort: 179, ListenAddresses: []string{receiverAddress}, UseMultiplePaths: true,
	}})
	if err != nil {
		return fmt.Errorf("start GoBGP: %w", err)
	}
	var known atomic.Int64
	best := &gobgpapi.WatchEventRequest_Table{Filters: []*gobgpapi.WatchEventRequest_Table_Filter{{Type: gobgpapi.WatchEventRequest_Table_Filter_BEST}}}
	err = s.WatchEvent(ctx, &gobgpapi.WatchEventRequest{Table: best}, func(r *gobgpapi.WatchEventResponse) {
		for _, p := range r.GetTable().GetPaths() {
			if p.IsWithdraw {
				known.Add(-1)
			} else {
				known.Add(1)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("watch GoBGP: %w", err)
	}
	err = s.AddPeer(ctx, &gobgpapi.AddPeerRequest{Peer: &gobgpapi.Peer{
		Conf:   &gobgpapi.PeerConf{NeighborAddress: senderAddress, PeerAsn: asn + 1},
		Timers: &gobgpapi.Timers{Config: &gobgpapi.TimersConfig{ConnectRetry: 1}},
	}})
	if err != nil {
		return fmt.Errorf("add a peer to GoBGP: %w", err)
	}
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for last := int64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if now := known.Load(); now != last {
			if err := writeCount(args[0], now); err != nil {
				return err
			}
			last = now
		}
	}
}

// writeCount lets nobody read half a number.
func writeCount(file string, n int64) error {
	if err := os.WriteFile(file+".new", strconv.AppendInt(nil, n, 10), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// silent is a log that says nothing.
type silent struct{}

func (silent) Panic(string, log.Fields) {}
func (silent) Fatal(string, log.Fields) {}
func (silent) Error(string, log.Fields) {}
func (silent) Warn(string, log.Fields)  {}
func (silent) Info(string, log.Fields)  {}
func (silent) Debug(string, log.Fields) {}
func (silent) SetLevel(log.LogLevel)    {}
func (silent) GetLevel() log.LogLevel   { return log.InfoLevel }
