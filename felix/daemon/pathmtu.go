package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tortie/felix/ipip"
	"tortie/felix/pathmtu"
	"tortie/felix/problems"
)

// echoWait is how long another node's answer may take.
const echoWait = time.Second

// newPathMTU makes what looks whether large packets reach the other nodes.
func (f *felix) newPathMTU(every time.Duration) *pathmtu.Prober {
	return pathmtu.New(pathmtu.Config{
		Echo:    pathmtu.Wire{Inside: f.inNode, Wait: echoWait},
		Targets: f.pathTargets, Every: every, Log: f.log,
	})
}

// inNode runs a function in the node's network namespace.
func (f *felix) inNode(do func() error) error {
	ns, err := f.kernel.Netns()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return ns.Visit(do)
}

// pathTargets are the other nodes' addresses with the size of the largest packets that go
// there: those of pods, and through a tunnel what it adds.
func (f *felix) pathTargets() []pathmtu.Target {
	m, s := f.underlay.now(), f.desired()
	tunneled := map[netip.Addr]bool{}
	for _, t := range s.Tunnels {
		for _, peer := range t.Peers {
			tunneled[peer.Address.Addr()] = true
		}
	}
	var out []pathmtu.Target
	for _, n := range f.nodes.others() {
		size := m.pods()
		if tunneled[n.addr] {
			size = max(size, m.tunnel(n.addr.Is6())+map[bool]int{false: overhead4, true: overhead6}[n.addr.Is6()])
		}
		if s.IPIP.IsValid() && n.addr.Is4() {
			size = max(size, m.ipipTunnel()+ipip.Overhead)
		}
		out = append(out, pathmtu.Target{Node: n.node, Addr: n.addr, Size: size})
	}
	return out
}

// pathProblems are one for each size, whatever the number of nodes.
func (f *felix) pathProblems() []problems.Problem {
	const most = 3
	bySize := map[int][]pathmtu.Finding{}
	for _, found := range f.pathMTU.Stats().Findings {
		bySize[found.Most] = append(bySize[found.Most], found)
	}
	var out []problems.Problem
	for _, size := range slices.Sorted(maps.Keys(bySize)) {
		var to []string
		for i, found := range bySize[size] {
			if i == most {
				to = append(to, fmt.Sprintf("and %d more", len(bySize[size])-most))
				break
			}
			to = append(to, fmt.Sprintf("%s (%s)", found.Node, found.Addr))
		}
		out = append(out, problems.Problem{Reason: reasonPathMTU, Topic: fmt.Sprint(size), Line: fmt.Sprintf(
			"packets of more than %d bytes to node %s are lost, and those of pods have up to %d: set the MTU of %s to %d on every node, which pods' and overlays' MTUs follow (of pods that run, at their restart), or have the network carry more",
			size, strings.Join(to, ", "), bySize[size][0].Size, f.underlay.now().device.Name, size)})
	}
	return out
}

// pathCollector shows what was found to Prometheus.
type pathCollector struct{ stats func() pathmtu.Stats }

var _ prometheus.Collector = pathCollector{}

func (pathCollector) descs() (nodes, least, looks *prometheus.Desc) {
	return prometheus.NewDesc("felix_path_mtu_black_holes", "Addresses of other nodes that small packets reach and large ones don't.", nil, nil),
		prometheus.NewDesc("felix_path_mtu_least_bytes", "The largest packet that reaches each of those; 0 for none.", nil, nil),
		prometheus.NewDesc("felix_path_mtu_looks_total", "Looks at a node by what was found: passed, lost, unanswered.", []string{"result"}, nil)
}

// Describe implements prometheus.Collector.
func (c pathCollector) Describe(out chan<- *prometheus.Desc) {
	nodes, least, looks := c.descs()
	out <- nodes
	out <- least
	out <- looks
}

// Collect implements prometheus.Collector.
func (c pathCollector) Collect(out chan<- prometheus.Metric) {
	nodes, least, looks := c.descs()
	s, size := c.stats(), 0
	for _, found := range s.Findings {
		if size == 0 || found.Most < size {
			size = found.Most
		}
	}
	out <- prometheus.MustNewConstMetric(nodes, prometheus.GaugeValue, float64(len(s.Findings)))
	out <- prometheus.MustNewConstMetric(least, prometheus.GaugeValue, float64(size))
	for result, n := range map[string]uint64{"passed": s.Passed, "lost": s.Lost, "unanswered": s.Unknown} {
		out <- prometheus.MustNewConstMetric(looks, prometheus.CounterValue, float64(n), result)
	}
}
