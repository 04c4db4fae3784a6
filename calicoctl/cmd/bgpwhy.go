package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tortie/calicoctl/output"
	"tortie/internal/control/nodestatus"
)

// whyView is the answer of `bgp why -o json`.
type whyView struct {
	Prefix     string          `json:"prefix"`
	What       string          `json:"what"`
	Paths      []whyPathView   `json:"paths"`
	Decision   string          `json:"decision,omitempty"`
	Filter     string          `json:"filter,omitempty"`
	Wanted     string          `json:"wanted,omitempty"`
	Kernel     []string        `json:"kernel"`
	Advertised []string        `json:"advertised"`
	Changes    []whyChangeView `json:"changes"`
}

type whyPathView struct {
	Peer        string   `json:"peer,omitempty"`
	Name        string   `json:"name"`
	Type        string   `json:"type,omitempty"`
	NextHop     string   `json:"nextHop,omitempty"`
	ASPath      []uint32 `json:"asPath"`
	LocalPref   uint32   `json:"localPref"`
	MED         uint32   `json:"med"`
	Communities []string `json:"communities,omitempty"`
	Best        bool     `json:"best"`
	Verdict     string   `json:"verdict"`
}

type whyChangeView struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

func (a *app) bgpWhyCommand() *cobra.Command {
	var socket, format string
	cmd := &cobra.Command{
		Use:   "why PREFIX|ADDRESS",
		Short: "Say why the route of this node to a prefix is as it is, or why there is none",
		Long: `Say why the route of this node to a prefix is as it is, or why there is none: whose
block or what else the prefix is, the path of each peer, by which rule of BGP's decision
process (RFC 4271 section 9.1.2) the best one won, what the filters made of it, what the
kernel should have and has, to whom it is announced, and the last changes since bgpd
started.`,
		Args: argsThat(cobra.ExactArgs(1), "one prefix or address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkBGPFormat(cmd, format, peersFormats()); err != nil {
				return err
			}
			if args[0] == "" || !isPrefixOrAddr(args[0]) {
				return usage(cmd, "bgp why %q: want a prefix such as 10.65.1.0/26 or an address", args[0])
			}
			return a.withNode(cmd.Context(), socket, func(ctx context.Context, node nodestatus.NodeStatusClient) error {
				answer, err := node.Why(ctx, &nodestatus.WhyRequest{Prefix: args[0]})
				if err != nil {
					return err
				}
				return a.printWhy(format, answer)
			})
		},
	}
	a.addSocketFlag(cmd, &socket)
	addBGPFormat(cmd, &format, peersFormats())
	return cmd
}

func (a *app) printWhy(format string, w *nodestatus.WhyResponse) error {
	switch format {
	case "json":
		return output.JSON(a.Stdout, viewOf(w))
	case "yaml":
		return output.YAML(a.Stdout, viewOf(w))
	}
	a.println(w.GetPrefix())
	a.printWhyPart("what", w.GetWhat())
	var paths []string
	for _, p := range w.GetPaths() {
		paths = append(paths, pathLine(p))
	}
	a.printWhyPart("paths", paths...)
	a.printWhyPart("decided by", w.GetDecision())
	a.printWhyPart("filters", w.GetFilter())
	a.printWhyPart("wanted", w.GetWanted())
	kernel := w.GetKernel()
	if len(kernel) == 0 {
		kernel = []string{"no route to exactly this prefix"}
	}
	a.printWhyPart("kernel", kernel...)
	a.printWhyPart("announced", w.GetAdvertised()...)
	var changes []string
	for _, c := range w.GetChanges() {
		t := time.UnixMilli(c.GetTime()).In(a.Now().Location())
		changes = append(changes, t.Format("2006-01-02 15:04:05.000")+"  "+c.GetText())
	}
	if len(changes) == 0 {
		changes = []string{"none since bgpd started"}
	}
	a.printWhyPart("changes", changes...)
	return nil
}

// printWhyPart prints a part of the answer, with its name before the first line.
func (a *app) printWhyPart(name string, lines ...string) {
	for i, line := range lines {
		if line == "" {
			continue
		}
		if i > 0 {
			name = ""
		}
		a.printf("  %-12s%s\n", name, oneLine(line))
	}
}

func pathLine(p *nodestatus.WhyPath) string {
	r := p.GetRoute()
	communities := strings.Join(r.GetCommunities(), " ")
	if communities != "" {
		communities = ", communities " + communities
	}
	if r.GetPeer() == "" {
		return "this node's own" + communities + ": " + p.GetVerdict()
	}
	from := r.GetPeer()
	if p.GetName() != "" {
		from = fmt.Sprintf("%s (%s, %s)", r.GetPeer(), p.GetName(), p.GetType())
	}
	path := "empty AS path"
	if len(r.GetAsPath()) > 0 {
		path = "AS path " + asPath(r)
	}
	return strings.Join([]string{
		"from " + from, "next hop " + r.GetNextHop(), path, fmt.Sprintf("local preference %d", r.GetLocalPref()),
	}, ", ") + communities + ": " + p.GetVerdict()
}

func viewOf(w *nodestatus.WhyResponse) whyView {
	out := whyView{
		Prefix: w.GetPrefix(), What: w.GetWhat(), Paths: []whyPathView{}, Decision: w.GetDecision(), Filter: w.GetFilter(),
		Wanted: w.GetWanted(), Kernel: append([]string{}, w.GetKernel()...), Advertised: append([]string{}, w.GetAdvertised()...),
		Changes: []whyChangeView{},
	}
	for _, p := range w.GetPaths() {
		r := p.GetRoute()
		out.Paths = append(out.Paths, whyPathView{
			Peer: r.GetPeer(), Name: p.GetName(), Type: p.GetType(), NextHop: r.GetNextHop(), ASPath: append([]uint32{}, r.GetAsPath()...),
			LocalPref: r.GetLocalPref(), MED: r.GetMed(), Communities: r.GetCommunities(), Best: r.GetBest(), Verdict: p.GetVerdict(),
		})
	}
	for _, c := range w.GetChanges() {
		out.Changes = append(out.Changes, whyChangeView{Time: time.UnixMilli(c.GetTime()).UTC(), Text: c.GetText()})
	}
	return out
}
