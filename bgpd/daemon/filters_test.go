package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/control/nodestatus"
	"tortie/internal/kernel/kerneltest"
)

// torConfig makes BIRD the router of the lab, which tells node1 and node3 of two
// networks in each family; the second has communities.
const torConfig = `
log stderr { info, warning, error, fatal };
router id 10.1.1.254;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; }
protocol static s4 { ipv4; route 192.0.2.0/24 blackhole; route 198.51.100.0/24 blackhole; route 172.17.5.0/24 blackhole; }
protocol static s6 { ipv6; route 2001:db8:1::/48 blackhole; route 2001:db8:2::/48 blackhole; }
function mark_it() { bgp_community.add((64999, 7)); bgp_large_community.add((64999, 7, 70000)); }
filter told4 { if source != RTS_STATIC then reject; if net = 198.51.100.0/24 then mark_it(); accept; }
filter told6 { if source != RTS_STATIC then reject; if net = 2001:db8:2::/48 then mark_it(); accept; }
template bgp node { graceful restart on; connect delay time 1; connect retry time 2; error wait time 1, 3; }
protocol bgp node1v4 from node { local 10.1.1.254 as 64999; neighbor 10.1.1.11 as 64512; ipv4 { import all; export filter told4; }; }
protocol bgp node1v6 from node { local fd01::fe as 64999; neighbor fd01::11 as 64512; ipv6 { import all; export filter told6; }; }
protocol bgp node3v4 from node { local 10.1.2.254 as 64999; neighbor 10.1.2.13 as 64512; ipv4 { import all; export filter told4; }; }
protocol bgp node3v6 from node { local fd02::fe as 64999; neighbor fd02::13 as 64512; ipv6 { import all; export filter told6; }; }
`

// filtered is a cluster whose node1 has two blocks a family and a filter towards the
// router; node3 has none.
type filtered struct {
	*lab
	filter *api.BGPFilter
	config *v3.BGPConfiguration
	// unfiltered: the router's peers name no filter. reflector: node1 is one, of node3.
	unfiltered, reflector bool
}

func newFiltered(t *testing.T, spec api.BGPFilterSpec) *filtered {
	if _, err := exec.LookPath("bird"); err != nil {
		kerneltest.Require(t, "the BIRD routing daemon (Debian package bird2)")
	}
	f := &filtered{lab: newLab(t), filter: &api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "to-router"}, Spec: spec}, config: v3.NewBGPConfiguration()}
	f.config.Name = "default"
	f.run("node1", "ip", "link", "add", "docker0", "type", "bridge")
	f.run("node1", "ip", "link", "set", "docker0", "up")
	f.run("node1", "ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
	f.startNode("node1", f.content())
	f.startNode("node3", f.content())
	conf := filepath.Join(f.dir, "tor.conf")
	if err := os.WriteFile(conf, []byte(strings.TrimSpace(torConfig)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bird", "-f", "-c", conf, "-s", filepath.Join(f.dir, "tor.ctl"))
	cmd.Stderr = t.Output()
	if err := f.ns["router"].Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	f.proc["tor"] = cmd
	t.Cleanup(func() { f.end("tor", syscall.SIGKILL) })
	for _, node := range []string{"node1", "node3"} {
		f.up(node)
	}
	return f
}

// content is the datastore's, without the node that isn't there.
func (f *filtered) content() map[string]string {
	objects := []api.Object{f.filter, f.config}
	for _, o := range resources() {
		switch o := o.(type) {
		case *api.Node:
			if o.Name == "node2" {
				continue
			}
			if f.reflector && o.Name == "node1" {
				o.Spec.BGP.RouteReflectorClusterID = "244.0.0.1"
				o.Labels = map[string]string{"reflector": "yes"}
			}
		case *v3.BGPPeer:
			if o.Spec.Node == "node1" && !f.unfiltered {
				o.Spec.Filters = []string{f.filter.Name}
			}
		}
		objects = append(objects, o)
	}
	if f.reflector {
		objects = append(objects, &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "reflectors"}, Spec: v3.BGPPeerSpec{PeerSelector: "has(reflector)"}})
	}
	objects = append(objects, confirmed("node1", more4), confirmed("node1", more6))
	return stored(f.t, objects)
}

// change gives node1 what the cluster has become.
func (f *filtered) change() { f.store("node1", f.content()) }

// up waits for a node's sessions with the router, and returns since when they are up.
func (f *filtered) up(node string) (since string) {
	f.t.Helper()
	client := f.status(node)
	f.until(node+"'s sessions with the router", func() (bool, string) {
		resp, err := client.Peers(f.t.Context(), &nodestatus.PeersRequest{})
		if err != nil {
			return false, err.Error()
		}
		n := 0
		since = ""
		for _, p := range resp.Peers {
			if p.Asn == routerASN && p.State == "Established" {
				n++
				since += fmt.Sprintf("%s since %d ", p.Address, p.Since)
			}
		}
		return n == 2, fmt.Sprint(resp.Peers)
	})
	return since
}

func (f *filtered) birdc(command ...string) string {
	f.t.Helper()
	return f.run("router", append([]string{"birdc", "-s", filepath.Join(f.dir, "tor.ctl")}, command...)...)
}

// hears waits until the router has just these prefixes from node1.
func (f *filtered) hears(step string, want ...string) {
	f.t.Helper()
	slices.Sort(want)
	f.until(step+": what the router hears from node1", func() (bool, string) {
		var got []string
		for _, session := range []string{"node1v4", "node1v6"} {
			for line := range strings.Lines(f.birdc("show", "route", "protocol", session)) {
				if prefix, _, ok := strings.Cut(line, " "); ok && strings.Contains(prefix, "/") {
					got = append(got, prefix)
				}
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), fmt.Sprintf("%v, want %v", got, want)
	})
}

// shows waits until the router shows a route of node1's with all of these lines.
func (f *filtered) shows(prefix string, want ...string) {
	f.t.Helper()
	session := "node1v4"
	if strings.Contains(prefix, ":") {
		session = "node1v6"
	}
	f.until("the router's route to "+prefix, func() (bool, string) {
		out := f.birdc("show", "route", prefix, "all", "protocol", session)
		for _, line := range want {
			if !strings.Contains(out, line+"\n") {
				return false, fmt.Sprintf("no %q in\n%s", line, out)
			}
		}
		return true, ""
	})
}

// installs waits until node1's kernel has just these routes from the router.
func (f *filtered) installs(step string, want ...string) {
	f.t.Helper()
	slices.Sort(want)
	f.until(step+": node1's routes", func() (bool, string) {
		var got []string
		for _, family := range []string{"-4", "-6"} {
			for line := range strings.Lines(f.run("node1", "ip", family, "route", "show", "proto", "81")) {
				prefix, _, _ := strings.Cut(line, " ")
				if !strings.HasPrefix(prefix, "10.65.") && !strings.HasPrefix(prefix, "fd65:") {
					got = append(got, prefix)
				}
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want), fmt.Sprintf("%v, want %v", got, want)
	})
}

// kept: the sessions with the router are those of before.
func (f *filtered) kept(since string) {
	f.t.Helper()
	if now := f.up("node1"); now != since {
		f.t.Errorf("sessions %s, before %s: a change of a filter must not reset them", now, since)
	}
}

func reject(cidr string) api.BGPFilterRule {
	return api.BGPFilterRule{CIDR: cidr, Operator: v3.In, Action: v3.Reject}
}

const (
	block4, block6, more4, more6 = "10.65.1.0/26", "fd65:1::/122", "10.65.9.0/26", "fd65:9::/122"
	first4, first6               = "192.0.2.0/24", "2001:db8:1::/48"
	second4, second6             = "198.51.100.0/24", "2001:db8:2::/48"
)

// TestExportFilterKeepsABlockFromAPeer: live, with the session as it was.
func TestExportFilterKeepsABlockFromAPeer(t *testing.T) {
	f := newFiltered(t, api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{reject(block4)}, ExportV6: []api.BGPFilterRule{reject(block6)}})
	since := f.up("node1")
	f.hears("at first", more4, more6)
	f.filter.Spec = api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{
		{CIDR: more4, Operator: v3.Equal, Action: v3.Reject}, {CIDR: "10.65.0.0/16", Operator: v3.In, Action: v3.Accept}, {Action: v3.Reject},
	}}
	f.change()
	f.hears("filter changed", block4, block6, more6)
	f.filter.Spec = api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{
		{CIDR: "10.65.0.0/16", Operator: v3.NotIn, PrefixLength: &api.BGPFilterPrefixLength{Max: new(int32(24))}, Action: v3.Reject},
	}, ExportV6: []api.BGPFilterRule{{CIDR: block6, Operator: v3.NotEqual, Action: v3.Reject}}}
	f.change()
	f.hears("nothing of IPv4", block6)
	f.unfiltered = true
	f.change()
	f.hears("no filter", block4, block6, more4, more6)
	f.kept(since)
}

// TestImportFilterKeepsARouteOutOfTheKernel: by prefix and by community, live.
func TestImportFilterKeepsARouteOutOfTheKernel(t *testing.T) {
	f := newFiltered(t, api.BGPFilterSpec{ImportV4: []api.BGPFilterRule{reject(first4)}, ImportV6: []api.BGPFilterRule{reject(first6)}})
	since := f.up("node1")
	f.installs("rejected by prefix", second4, second6)
	f.filter.Spec = api.BGPFilterSpec{
		ImportV4: []api.BGPFilterRule{{Communities: &api.BGPFilterCommunityMatch{Values: []string{"64999:7"}}, Action: v3.Reject}},
		ImportV6: []api.BGPFilterRule{{Communities: &api.BGPFilterCommunityMatch{Values: []string{"64999:7:70000"}}, Action: v3.Reject}},
	}
	f.change()
	f.installs("rejected by community", first4, first6)
	f.filter.Spec = api.BGPFilterSpec{
		ImportV4: []api.BGPFilterRule{
			{ASPathPrefix: []api.ASN{routerASN, routerASN}, Action: v3.Reject}, // no such path
			{PeerType: api.BGPFilterInternal, Action: v3.Reject},
			{Interface: "docker*", Action: v3.Reject},
		},
		ImportV6: []api.BGPFilterRule{{ASPathPrefix: []api.ASN{routerASN}, PeerType: api.BGPFilterExternal, Interface: "eth*", Source: v3.BGPFilterSourceRemotePeers, Action: v3.Reject}},
	}
	f.change()
	f.installs("rejected by AS path, device and peer type", first4, second4)
	f.unfiltered = true
	f.change()
	f.installs("no filter", first4, second4, first6, second6)
	f.kept(since)
}

// TestBIRDSeesCommunitiesAndPrependedPath: of prefixAdvertisements and of operations.
func TestBIRDSeesCommunitiesAndPrependedPath(t *testing.T) {
	f := newFiltered(t, api.BGPFilterSpec{})
	f.shows(block4, "\tBGP.as_path: 64512")
	f.config.Spec = v3.BGPConfigurationSpec{
		Communities: []v3.Community{{Name: "pods", Value: "64512:100"}},
		PrefixAdvertisements: []v3.PrefixAdvertisement{
			{CIDR: "10.65.0.0/16", Communities: []string{"pods", "64512:70000:1"}}, {CIDR: "fd65:1::/64", Communities: []string{"pods"}},
		},
	}
	f.change()
	f.shows(block4, "\tBGP.community: (64512,100)", "\tBGP.large_community: (64512, 70000, 1)")
	f.shows(block6, "\tBGP.community: (64512,100)")
	operations := []api.BGPFilterOperation{
		{AddCommunity: &api.BGPFilterAddCommunity{Value: "64512:200"}},
		{AddCommunity: &api.BGPFilterAddCommunity{Value: "64512:1:2"}},
		{PrependASPath: &api.BGPFilterPrependASPath{Prefix: []api.ASN{64512, 64512}}},
	}
	tagged := []api.BGPFilterRule{{Communities: &api.BGPFilterCommunityMatch{Values: []string{"64512:100"}}, Action: v3.Accept, Operations: operations}}
	f.filter.Spec = api.BGPFilterSpec{ExportV4: tagged, ExportV6: tagged}
	f.change()
	f.shows(block4, "\tBGP.as_path: 64512 64512 64512", "\tBGP.community: (64512,100) (64512,200)", "\tBGP.large_community: (64512, 70000, 1) (64512, 1, 2)")
	f.shows(block6, "\tBGP.as_path: 64512 64512 64512", "\tBGP.community: (64512,100) (64512,200)", "\tBGP.large_community: (64512, 1, 2)")
	f.shows(more6, "\tBGP.as_path: 64512") // in no advertisement, so not tagged
	f.config.Spec = v3.BGPConfigurationSpec{}
	f.change()
	f.until("the communities to be gone", func() (bool, string) {
		out := f.birdc("show", "route", block4, "all", "protocol", "node1v4")
		return strings.Contains(out, "BGP.as_path: 64512\n") && !strings.Contains(out, "community"), out
	})
}

// TestIgnoredInterfaceIsNoSegment: what lies inside a subnet of it may be learned.
func TestIgnoredInterfaceIsNoSegment(t *testing.T) {
	f := newFiltered(t, api.BGPFilterSpec{})
	const inside = "172.17.5.0/24"
	f.installs("docker0 is a segment", first4, second4, first6, second6)
	f.reason("node1", inside, "prefix of no block, BGPPeer router-node1-v4, not installed: overlaps 172.17.0.0/16, a segment of this node on docker0")
	f.config.Spec.IgnoredInterfaces = []string{"docker*"}
	f.change()
	f.installs("docker0 is ignored", first4, second4, first6, second6, inside)
}

// TestPeerWhoseFilterCannotBeUsedHasNoSession: missing, or with a field of a newer version.
func TestPeerWhoseFilterCannotBeUsedHasNoSession(t *testing.T) {
	f := newFiltered(t, api.BGPFilterSpec{ExportV4: []api.BGPFilterRule{{Action: v3.Reject}}})
	f.hears("at first", block6, more6)
	down := func(step, problem string) {
		t.Helper()
		client := f.status("node1")
		f.until(step, func() (bool, string) {
			peers, err := client.Peers(t.Context(), &nodestatus.PeersRequest{})
			if err != nil {
				return false, err.Error()
			}
			configured := slices.DeleteFunc(slices.Clone(peers.Peers), func(p *nodestatus.Peer) bool { return p.State == "Disabled" })
			for _, p := range configured {
				if p.Asn == routerASN {
					return false, p.Name + " is still a peer"
				}
			}
			st, err := client.Status(t.Context(), &nodestatus.StatusRequest{})
			if err != nil {
				return false, err.Error()
			}
			for _, p := range st.Problems {
				if strings.Contains(p, problem) {
					return len(configured) == 2, "the mesh is gone"
				}
			}
			return false, fmt.Sprint(st.Problems)
		})
	}
	content := f.content()
	for path, value := range content {
		if strings.HasSuffix(path, "/bgpfilters/to-router") {
			content[path] = strings.Replace(value, `"action"`, `"onlyOnTuesdays":true,"action"`, 1)
		}
	}
	f.store("node1", content)
	down("unknown field", "BGPFilter(to-router) has fields that this version doesn't know")
	f.hears("no session")
	f.change()
	f.hears("the field is gone", block6, more6)
	for path := range content {
		if strings.HasSuffix(path, "/bgpfilters/to-router") {
			delete(content, path)
		}
	}
	f.store("node1", content)
	down("no such filter", "BGPPeer router-node1-v4: spec.filters[0]: there is no BGPFilter to-router")
}

// TestPriorityIsLocalPreferenceInTheSameAS: on the wire it is upstream's.
func TestPriorityIsLocalPreferenceInTheSameAS(t *testing.T) {
	filter := &api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "prefer"}, Spec: api.BGPFilterSpec{
		ExportV4: []api.BGPFilterRule{{
			PeerType: api.BGPFilterInternal, Priority: new(1024), Action: v3.Accept,
			Operations: []api.BGPFilterOperation{
				{SetPriority: &api.BGPFilterSetPriority{Value: 512}},
				{PrependASPath: &api.BGPFilterPrependASPath{Prefix: []api.ASN{65001, 65002}}},
			},
		}},
	}}
	peer := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Spec: v3.BGPPeerSpec{
		Node: "node1", PeerIP: "10.1.1.12", ASNumber: 64512, Filters: []string{"prefer"},
	}}
	l, _ := upBIRD(t, filter, peer)
	l.until("BIRD's route to node1's block", func() (bool, string) {
		out := l.birdc("show", "route", block4, "all", "protocol", "node1v4")
		return strings.Contains(out, "BGP.local_pref: 2147483135\n") && strings.Contains(out, "BGP.as_path: 65001 65002\n"), out
	})
}

// TestReflectorsFilterTellsOwnFromOthersRoutes: source RemotePeers is what is passed on.
func TestReflectorsFilterTellsOwnFromOthersRoutes(t *testing.T) {
	f := newFiltered(t, api.BGPFilterSpec{})
	f.reflector = true
	f.store("node3", f.content())
	f.change()
	f.hears("a reflector passes on", block4, block6, more4, more6, "10.65.3.0/26", "fd65:3::/122")
	remote := []api.BGPFilterRule{{Source: v3.BGPFilterSourceRemotePeers, Action: v3.Reject}}
	f.filter.Spec = api.BGPFilterSpec{ExportV4: remote, ExportV6: remote}
	f.change()
	f.hears("but not what its filter rejects", block4, block6, more4, more6)
	f.filter.Spec = api.BGPFilterSpec{
		ExportV4: []api.BGPFilterRule{{Source: v3.BGPFilterSourceRemotePeers, Interface: "eth0", Action: v3.Accept}, {Action: v3.Reject}},
		ExportV6: []api.BGPFilterRule{{Interface: "docker*", Action: v3.Accept}, {Action: v3.Reject}},
	}
	f.change()
	// node3 is behind the router: its next hop is on no segment of node1.
	f.hears("and by device", []string{}...)
}
