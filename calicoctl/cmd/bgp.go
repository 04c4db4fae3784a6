package cmd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tortie/calicoctl/output"
	"tortie/internal/control/nodestatus"
)

// peerView is a peer as `bgp peers -o json` shows it.
type peerView struct {
	Node            string    `json:"node,omitempty"`
	Name            string    `json:"name"`
	Address         string    `json:"address"`
	Port            uint32    `json:"port,omitempty"`
	ASN             uint32    `json:"asNumber"`
	LocalASN        uint32    `json:"localASNumber"`
	Type            string    `json:"type"`
	State           string    `json:"state"`
	Since           time.Time `json:"since,omitzero"`
	Info            string    `json:"info,omitempty"`
	Received        uint64    `json:"received"`
	Advertised      uint64    `json:"advertised"`
	GracefulRestart bool      `json:"gracefulRestart"`
	BFD             string    `json:"bfd,omitempty"`
	// The times are in seconds.
	HoldTime         uint32 `json:"holdTime,omitempty"`
	KeepaliveTime    uint32 `json:"keepaliveTime,omitempty"`
	ConnectTime      uint32 `json:"connectTime,omitempty"`
	AddPath          bool   `json:"addPath,omitempty"`
	LongLivedRestart bool   `json:"longLivedRestart,omitempty"`
}

// routeView is a route as `bgp routes -o json` shows it.
type routeView struct {
	Prefix    string   `json:"prefix"`
	NextHop   string   `json:"nextHop,omitempty"`
	ASPath    []uint32 `json:"asPath"`
	Peer      string   `json:"peer,omitempty"`
	Best      bool     `json:"best"`
	Stale     bool     `json:"stale"`
	LocalPref uint32   `json:"localPref"`
	MED       uint32   `json:"med"`
	// Communities are standard and large ones.
	Communities []string  `json:"communities,omitempty"`
	Kernel      string    `json:"kernel,omitempty"`
	Reason      string    `json:"reason"`
	Since       time.Time `json:"since,omitzero"`
	PathID      uint32    `json:"pathID,omitempty"`
}

func (a *app) bgpCommand() *cobra.Command {
	return group("bgp", "Show what the BGP daemon of this node knows, and what a change would do",
		a.bgpPeersCommand(), a.bgpRoutesCommand(), a.bgpWhyCommand(), a.bgpPlanCommand(),
		a.bgpAutoTopologyCommand())
}

func (a *app) bgpPeersCommand() *cobra.Command {
	var socket, format string
	var all bool
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Show the peers of this node, or of all nodes",
		Long: `Show the peers of this node, or with --all-nodes of all nodes. A session that is not up
says why. A BGPPeer that a problem keeps from being a session is Disabled, and INFO is the
problem. -o wide shows as well the hold time, keepalive time and time between attempts to
connect, and what else both sides have agreed upon.

--all-nodes asks the other nodes through the datastore, from wherever it is run: it makes
a CalicoNodeStatus resource for each, waits for the answers and deletes them. The exit
status is not 0 if a node does not answer; what the others say is shown all the same.`,
		Args: argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBGPFormat(cmd, format, peersFormats()); err != nil {
				return err
			}
			if all {
				return a.bgpPeersOfAll(cmd.Context(), format)
			}
			return a.withNode(cmd.Context(), socket, func(ctx context.Context, node nodestatus.NodeStatusClient) error {
				answer, err := node.Peers(ctx, &nodestatus.PeersRequest{})
				if err != nil {
					return err
				}
				return a.printPeers(format, []nodePeers{{peers: answer.GetPeers()}})
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all-nodes", false, "show the peers of all nodes")
	a.addSocketFlag(cmd, &socket)
	atMostOne(cmd, "all-nodes", "socket")
	addBGPFormat(cmd, &format, peersFormats())
	return cmd
}

func (a *app) bgpPeersOfAll(ctx context.Context, format string) error {
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	answers, err := a.allPeers(ctx, store)
	if len(answers) == 0 && err != nil {
		return err
	}
	return errors.Join(a.printPeers(format, answers), err)
}

func (a *app) bgpRoutesCommand() *cobra.Command {
	var socket, format string
	var in, out, fib bool
	cmd := &cobra.Command{
		Use:   "routes [PREFIX]",
		Short: "Show the routes of this node, each with the reason for it",
		Long: `Show the routes of this node: where each leads, how the kernel has it, and why.
A block of this node itself has neither a next hop nor a route of bgpd in the kernel.
-o wide shows all paths' peers and AS paths as well, and which is the best.

--in shows what each peer has sent and what was made of it, --out what each peer is
sent, --fib what the kernel has of bgpd's and what it lacks.`,
		Args: argsThat(cobra.MaximumNArgs(1), "at most one prefix or address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkBGPFormat(cmd, format, routesFormats()); err != nil {
				return err
			}
			prefix := strings.Join(args, "")
			if !isPrefixOrAddr(prefix) {
				return usage(cmd, "bgp routes %q: want a prefix such as 10.65.1.0/26 or an address", prefix)
			}
			return a.withNode(cmd.Context(), socket, func(ctx context.Context, node nodestatus.NodeStatusClient) error {
				answer, err := node.Routes(ctx, &nodestatus.RoutesRequest{Prefix: prefix, Table: tableOf(in, out, fib)})
				if err != nil {
					return err
				}
				if prefix != "" && len(answer.GetRoutes()) == 0 {
					return fmt.Errorf("bgp routes %s: this node has no route to it", prefix)
				}
				return a.printRoutes(format, columnsOf(in, out), answer.GetRoutes())
			})
		},
	}
	cmd.Flags().BoolVar(&in, "in", false, "what each peer has sent (Adj-RIB-In)")
	cmd.Flags().BoolVar(&out, "out", false, "what each peer is sent (Adj-RIB-Out)")
	cmd.Flags().BoolVar(&fib, "fib", false, "the routes that the kernel has of bgpd's, or lacks")
	atMostOne(cmd, "in", "out", "fib")
	a.addSocketFlag(cmd, &socket)
	addBGPFormat(cmd, &format, routesFormats())
	return cmd
}

func isPrefixOrAddr(s string) bool {
	if s == "" {
		return true
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return true
	}
	_, err := netip.ParseAddr(s)
	return err == nil
}

func peersFormats() []string { return []string{"table", "wide", "json", "yaml"} }

func routesFormats() []string { return []string{"table", "wide", "json", "yaml"} }

func addBGPFormat(cmd *cobra.Command, format *string, formats []string) {
	cmd.Flags().StringVarP(format, "output", "o", "table", "format: "+alternatives(formats))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

func checkBGPFormat(cmd *cobra.Command, format string, formats []string) error {
	if slices.Contains(formats, format) {
		return nil
	}
	return usage(cmd, "unrecognized output format '%s': want %s", format, alternatives(formats))
}

// alternatives reads "a, b or c".
func alternatives(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// printPeers prints the peers of this node, which has no name here, or of several.
func (a *app) printPeers(format string, nodes []nodePeers) error {
	views := []peerView{}
	header := []string{"NAME", "ADDRESS", "ASN", "TYPE", "STATE", "SINCE", "RECEIVED", "ADVERTISED", "BFD", "INFO"}
	if format == "wide" {
		header = slices.Insert(header, len(header)-1, "TIMERS", "WITH")
	}
	named := len(nodes) != 1 || nodes[0].node != ""
	if named {
		header = append([]string{"NODE"}, header...)
	}
	rows := [][]string{header}
	for _, n := range nodes {
		if named && len(n.peers) == 0 {
			row := slices.Repeat([]string{"-"}, len(header))
			row[0], row[len(row)-1] = n.node, "no peers"
			rows = append(rows, row)
		}
		for _, p := range n.peers {
			views = append(views, peerView{
				Node: n.node, Name: p.GetName(), Address: p.GetAddress(), Port: p.GetPort(), ASN: p.GetAsn(), LocalASN: p.GetLocalAsn(),
				Type: p.GetType(), State: p.GetState(), Since: unixTime(p.GetSince()), Info: p.GetInfo(),
				Received: p.GetReceived(), Advertised: p.GetAdvertised(), GracefulRestart: p.GetGracefulRestart(),
				BFD: p.GetBfd(), HoldTime: p.GetHoldTime(), KeepaliveTime: p.GetKeepaliveTime(), ConnectTime: p.GetConnectTime(),
				AddPath: p.GetAddPath(), LongLivedRestart: p.GetLongLivedRestart(),
			})
			row := []string{
				dash(p.GetName()), dash(p.GetAddress()), asn(p.GetAsn()), p.GetType(), p.GetState(), a.peerSince(p),
				strconv.FormatUint(p.GetReceived(), 10), strconv.FormatUint(p.GetAdvertised(), 10), dash(p.GetBfd()), dash(p.GetInfo()),
			}
			if format == "wide" {
				row = slices.Insert(row, len(row)-1, timers(p), agreed(p))
			}
			if named {
				row = append([]string{n.node}, row...)
			}
			rows = append(rows, row)
		}
	}
	return a.printAs(format, views, rows)
}

// timers are hold time, keepalive time and the time between attempts to connect.
func timers(p *nodestatus.Peer) string {
	if p.GetHoldTime() == 0 {
		return "-"
	}
	return fmt.Sprintf("%ds/%ds/%ds", p.GetHoldTime(), p.GetKeepaliveTime(), p.GetConnectTime())
}

// agreed is what both sides of a session have besides.
func agreed(p *nodestatus.Peer) string {
	var all []string
	for _, extra := range []struct {
		name string
		has  bool
	}{{"graceful restart", p.GetGracefulRestart()}, {"long-lived restart", p.GetLongLivedRestart()}, {"add-path", p.GetAddPath()}} {
		if extra.has {
			all = append(all, extra.name)
		}
	}
	return dash(strings.Join(all, ", "))
}

// asn is 0 where it is not known, as for the peers of a selector.
func asn(n uint32) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(uint64(n), 10)
}

func (a *app) peerSince(p *nodestatus.Peer) string {
	if p.GetSince() == 0 {
		return "-"
	}
	return a.since(p.GetSince())
}

func tableOf(in, out, fib bool) nodestatus.Table {
	switch {
	case in:
		return nodestatus.Table_ADJ_IN
	case out:
		return nodestatus.Table_ADJ_OUT
	case fib:
		return nodestatus.Table_FIB
	}
	return nodestatus.Table_LOC_RIB
}

// columns is which of a route's data a table shows between its next hop and its reason.
type columns struct{ peer, kernel bool }

func columnsOf(in, out bool) columns { return columns{peer: in || out, kernel: !in && !out} }

func (a *app) printRoutes(format string, show columns, routes []*nodestatus.Route) error {
	if format == "wide" {
		return a.printAs(format, nil, wideRows(routes))
	}
	views := make([]routeView, len(routes))
	header := []string{"PREFIX"}
	if show.peer {
		header = append(header, "PEER")
	}
	header = append(header, "NEXTHOP")
	if show.peer {
		header = append(header, "ASPATH")
	}
	if show.kernel {
		header = append(header, "KERNEL")
	}
	rows := [][]string{append(header, "REASON")}
	for i, r := range routes {
		views[i] = routeView{
			Prefix: r.GetPrefix(), NextHop: r.GetNextHop(), ASPath: append([]uint32{}, r.GetAsPath()...), Peer: r.GetPeer(),
			Best: r.GetBest(), Stale: r.GetStale(), LocalPref: r.GetLocalPref(), MED: r.GetMed(), Communities: r.GetCommunities(),
			Kernel: r.GetKernel(), Reason: r.GetReason(), Since: unixTime(r.GetAge()), PathID: r.GetPathId(),
		}
		row := []string{r.GetPrefix()}
		if show.peer {
			row = append(row, r.GetPeer())
		}
		row = append(row, dash(r.GetNextHop()))
		if show.peer {
			row = append(row, dash(asPath(r)))
		}
		if show.kernel {
			row = append(row, dash(r.GetKernel()))
		}
		rows = append(rows, append(row, dash(r.GetReason())))
	}
	return a.printAs(format, views, rows)
}

func wideRows(routes []*nodestatus.Route) [][]string {
	rows := [][]string{{"PREFIX", "NEXTHOP", "BEST", "PEER", "ASPATH", "LOCALPREF", "MED", "COMMUNITIES", "KERNEL", "REASON"}}
	for _, r := range routes {
		rows = append(rows, []string{
			r.GetPrefix(), dash(r.GetNextHop()), bestMark(r), dash(r.GetPeer()), dash(asPath(r)),
			strconv.FormatUint(uint64(r.GetLocalPref()), 10), strconv.FormatUint(uint64(r.GetMed()), 10),
			dash(strings.Join(r.GetCommunities(), " ")), dash(r.GetKernel()), dash(r.GetReason()),
		})
	}
	return rows
}

func asPath(r *nodestatus.Route) string {
	path := make([]string, len(r.GetAsPath()))
	for i, asn := range r.GetAsPath() {
		path[i] = strconv.FormatUint(uint64(asn), 10)
	}
	return strings.Join(path, " ")
}

func bestMark(r *nodestatus.Route) string {
	mark := "no"
	if r.GetBest() {
		mark = "yes"
	}
	if r.GetStale() {
		mark += " (stale)"
	}
	return mark
}

func (a *app) printAs(format string, views any, rows [][]string) error {
	switch format {
	case "json":
		return output.JSON(a.Stdout, views)
	case "yaml":
		return output.YAML(a.Stdout, views)
	}
	tw := tabwriter.NewWriter(a.Stdout, 5, 1, 3, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = oneLine(row[i])
		}
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
