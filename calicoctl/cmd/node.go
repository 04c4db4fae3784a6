package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tortie/internal/api"
	"tortie/internal/control/cniwire"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
)

// established is the one RFC 4271 state in which routes are exchanged.
const established = "Established"

// disabled is the state of a BGPPeer that a problem keeps from being a session.
const disabled = "Disabled"

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "Show the state of this node", append(a.absentNode(), a.nodeStatusCommand())...)
}

func (a *app) nodeStatusCommand() *cobra.Command {
	var bgpd, felix string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether bgpd and felix run on this node, and its BGP sessions",
		Long: `Show whether bgpd and felix run on this node, and its BGP sessions.

The exit status is not 0 if one of the two is away; what the other says is shown
all the same.`,
		Args: argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.nodeStatus(cmd.Context(), bgpd, felix)
		},
	}
	a.addSocketFlag(cmd, &bgpd)
	path := orElse(a.Getenv("FELIX_CNISOCKET"), cniwire.DefaultSocket)
	cmd.Flags().StringVar(&felix, "felix-socket", path, "Unix socket of this node's felix (environment: FELIX_CNISOCKET)")
	return cmd
}

// nodeStatus shows what can be found out, and fails if a daemon is away.
func (a *app) nodeStatus(ctx context.Context, bgpd, felix string) error {
	var (
		state *nodestatus.StatusResponse
		peers *nodestatus.PeersResponse
	)
	bgpdErr := a.withNode(ctx, bgpd, func(ctx context.Context, node nodestatus.NodeStatusClient) error {
		var err error
		if state, err = node.Status(ctx, &nodestatus.StatusRequest{}); err != nil {
			return err
		}
		peers, err = node.Peers(ctx, &nodestatus.PeersRequest{})
		return err
	})
	said, saidErr := a.FelixStatus(felix)
	felixErr := a.askFelix(ctx, felix, said.Ended)
	if state != nil {
		a.println("Calico process is running.")
	}
	var problems []string
	if felixErr == nil {
		a.println("felix is running.")
		problems = said.Problems
	}
	if state != nil {
		a.printNodeStatus(state, peers)
		problems = append(problems, nodeProblems(state)...)
	}
	a.printProblems(problems)
	if state != nil {
		a.printf("\nNetwork policies are stored but not enforced yet on this node.\n")
	}
	if felixErr != nil {
		saidErr = nil // what it said before is not the question
	}
	return errors.Join(bgpdErr, felixErr, saidErr)
}

func (a *app) printProblems(problems []string) {
	if len(problems) == 0 {
		return
	}
	a.printf("\nProblems\n")
	for i, problem := range problems {
		same := func(other string) bool { return datastore.UnreadMatter(other) == datastore.UnreadMatter(problem) }
		if slices.IndexFunc(problems, same) == i { // what both daemons say is said once
			a.printf("  %s\n", oneLine(problem))
		}
	}
}

// askFelix finds out whether felix takes calls of the CNI plugin. ended is why one
// that ran before has ended, as far as is known.
func (a *app) askFelix(ctx context.Context, socket, ended string) error {
	ctx, cancel := context.WithTimeout(ctx, a.OpTimeout)
	defer cancel()
	err := a.Connect(ctx, socket)
	var cause string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return noPermission(socket)
	case errors.Is(err, fs.ErrNotExist):
		cause = "absent"
	case errors.Is(err, syscall.ECONNREFUSED):
		cause = "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("felix on %s does not answer: pods can't be added; look at its log", socket)
	default:
		cause = kernelReason(err)
	}
	if ended != "" {
		return fmt.Errorf("felix is not running on this node (socket %s: %s): pods can't be added; the reason: %s", socket, cause, oneLine(ended))
	}
	return fmt.Errorf("felix is not running on this node (socket %s: %s): pods can't be added; start it and look at its log", socket, cause)
}

// kernelReason is the kernel's own words in an error of package net.
func kernelReason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

func noPermission(socket string) error {
	return fmt.Errorf("open %s: permission denied; run calicoctl as root", socket)
}

func (a *app) addSocketFlag(cmd *cobra.Command, socket *string) {
	path := orElse(a.Getenv("BGPD_SOCKET"), nodestatus.DefaultSocket)
	cmd.Flags().StringVar(socket, "socket", path, "Unix socket of this node's bgpd (environment: BGPD_SOCKET)")
}

// withNode asks this node's bgpd.
func (a *app) withNode(ctx context.Context, socket string, ask func(context.Context, nodestatus.NodeStatusClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.OpTimeout)
	defer cancel()
	client, conn, err := a.DialNode(ctx, socket)
	if err == nil {
		defer func() { _ = conn.Close() }()
		err = ask(ctx, client)
	}
	return explainNode(socket, err)
}

// explainNode says why bgpd can't be asked, and what to do. Other errors stay as
// they are.
func explainNode(socket string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return noPermission(socket)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("Calico process is not running: bgpd has no socket %s; start bgpd on this node, or name its socket with --socket", socket) //nolint:staticcheck // as upstream's users know it
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("Calico process is not running: nobody listens on %s, which a bgpd left behind; start bgpd on this node", socket) //nolint:staticcheck // as upstream's users know it
	case errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("bgpd on %s does not answer; look at its log", socket)
	}
	s, ok := status.FromError(err)
	switch {
	case !ok && errors.As(err, new(*net.OpError)):
		return fmt.Errorf("connect to bgpd on %s: %s", socket, kernelReason(err))
	case !ok:
		return err
	case s.Code() == codes.Unavailable:
		return fmt.Errorf("bgpd on %s hung up; look whether it runs and at its log", socket)
	case s.Code() == codes.Unimplemented:
		return fmt.Errorf("%s is not a bgpd's socket, or one of another version; name the right one with --socket", socket)
	}
	return fmt.Errorf("bgpd on %s: %s", socket, s.Message())
}

// printNodeStatus shows a bgpd's state, and its sessions unless peers is nil.
func (a *app) printNodeStatus(state *nodestatus.StatusResponse, peers *nodestatus.PeersResponse) {
	if off := state.GetOff(); off != "" {
		a.printf("Node %s speaks no BGP (%s); bgpd %s, up since %s.\n", state.GetNode(), off, state.GetVersion(), a.since(state.GetStarted()))
		return
	}
	a.printf("Node %s, AS %d, router ID %s, node-to-node mesh %s; bgpd %s, up since %s.\n",
		state.GetNode(), state.GetAsn(), state.GetRouterId(), onOff(state.GetMesh()), state.GetVersion(), a.since(state.GetStarted()))
	if state.GetGracefulShutdown() {
		a.printf("In graceful shutdown: peers are asked to prefer other ways than this node (its label %s).\n", api.LabelGracefulShutdown)
	}
	for _, family := range []int{4, 6} {
		if peers == nil {
			break
		}
		a.printf("\nIPv%d BGP status\n", family)
		a.printPeerTable(family, peers.GetPeers())
	}
}

// nodeProblems are the daemon's own, and the states that explain missing or
// stale routes.
func nodeProblems(state *nodestatus.StatusResponse) []string {
	problems := state.GetProblems()
	if !state.GetDatastoreInSync() {
		problems = append(problems, "bgpd has not read the datastore yet: peers and routes may be missing")
	}
	if state.GetRestarting() {
		problems = append(problems, "bgpd is restarting gracefully: routes from before the restart are kept until its peers have sent theirs")
	}
	return problems
}

func (a *app) printPeerTable(family int, peers []*nodestatus.Peer) {
	t := a.boxed("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")
	rows := 0
	for _, peer := range peers {
		addr, err := netip.ParseAddr(peer.GetAddress())
		if is6 := err == nil && addr.Unmap().Is6(); is6 != (family == 6) || peer.GetState() == disabled {
			continue // what is no session is among the problems
		}
		t.AppendRow(table.Row{peer.GetAddress(), peer.GetType(), upOrStart(peer), a.since(peer.GetSince()), peerInfo(peer)})
		rows++
	}
	if rows == 0 {
		a.printf("No IPv%d peers found.\n", family)
		return
	}
	a.println(t.Render())
}

// boxed is a table with lines around its cells.
func (a *app) boxed(header ...string) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleDefault)
	row := make(table.Row, len(header))
	for i, h := range header {
		row[i] = h
	}
	t.AppendHeader(row)
	return t
}

// upOrStart is the state of the session in the words of BIRD, which operators
// look for.
func upOrStart(peer *nodestatus.Peer) string {
	if peer.GetState() == established {
		return "up"
	}
	return "start"
}

// peerInfo is the state as RFC 4271 names it and, after a colon, its cause.
func peerInfo(peer *nodestatus.Peer) string {
	info := strings.TrimSpace(peer.GetInfo())
	if info == "" {
		return peer.GetState()
	}
	return oneLine(peer.GetState() + ": " + info)
}

// since shows a time of the last day as a time, an older one with its date.
func (a *app) since(seconds int64) string {
	if seconds == 0 {
		return "never"
	}
	now := a.Now()
	t := time.Unix(seconds, 0).In(now.Location())
	if now.Sub(t) < 24*time.Hour {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
