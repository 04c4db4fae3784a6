package fv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

// TestPluginsOfOthers has felix work with the reference plugins: as its IPAM, as what
// comes after it in a chain, and as main plugins that have their addresses from it.
func TestPluginsOfOthers(t *testing.T) {
	l := up(t, "cniothers", 1)
	own := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(own, "static"), "github.com/containernetworking/plugins/plugins/ipam/static")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, tc := range []struct {
		name string
		test func(runtime)
	}{
		{"HostLocal", runtime.hostLocal},
		{"HostLocalFull", runtime.hostLocalFull},
		{"StaticInTheNewestVersion", runtime.static},
		{"IPAMPluginMissing", runtime.ipamPluginMissing},
		{"IPAMPluginIsToldAll", func(r runtime) { r.ipamPluginIsToldAll(own) }},
		{"CalicoIPAMAlone", runtime.calicoIPAMAlone},
		{"Chain", runtime.chain},
		{"ChainBeforeAndBehind", func(r runtime) { r.chainBeforeAndBehind("1.1.0") }},
		{"ChainBeforeAndBehindInAnOlderVersion", func(r runtime) { r.chainBeforeAndBehind("0.4.0") }},
		{"Wishes", runtime.wishes},
		{"Limits", runtime.limits},
		{"CalicoIPAMUnderBridge", func(r runtime) { r.calicoIPAMUnder(`"type": "bridge", "bridge": "br9"`) }},
		{"CalicoIPAMUnderMacvlan", func(r runtime) { r.calicoIPAMUnder(`"type": "macvlan", "master": "eth0"`) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.test(newRuntime(t, l, own, debianPlugins))
			waitStoreSound(t, l, 0)
		})
	}
}

// withHostLocal is a plugin that leaves its addresses to host-local, which keeps them
// in files of the folder.
func withHostLocal(dir, subnet string) string {
	return fmt.Sprintf(`{"type": "calico", "policy": {"type": "k8s"}, "capabilities": {"ipRanges": true},
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}], [{"subnet": "2001:db8:9::/64"}]]}}`, dir, subnet)
}

// reserved are the addresses that host-local has assigned.
func (r runtime) reserved(dir, network string) string {
	r.Helper()
	files, err := os.ReadDir(filepath.Join(dir, network))
	r.must(err)
	var names []string
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "l") { // last_reserved_ip, lock
			names = append(names, f.Name())
		}
	}
	return strings.Join(names, " ")
}

func (r runtime) hostLocal() {
	dir := r.TempDir()
	list := r.list("hl", "1.0.0", withHostLocal(dir, "192.0.2.0/24"))
	c := r.sandbox("hl")
	result := r.add(list, c)
	v4, v6 := "192.0.2.2", "2001:db8:9::2"
	if got := r.reserved(dir, "hl"); got != v4+" "+v6 || len(result.IPs) != 2 || result.IPs[0].Address.String() != v4+"/32" || result.IPs[0].Gateway.String() != "169.254.1.1" {
		r.Errorf("host-local has %s, the result %v", got, result)
	}
	for _, addr := range []string{v4, v6} {
		r.onNode("ping -c 1 -W 5 " + addr)
	}
	r.add(list, c)
	if got := r.reserved(dir, "hl"); got != v4+" "+v6 {
		r.Errorf("after a repeated ADD host-local has %s", got)
	}
	r.check(list, c)
	r.must(os.Remove(filepath.Join(dir, "hl", v4)))
	r.must(os.Remove(filepath.Join(dir, "hl", v6)))
	r.check(list, c, "IPAM plugin host-local: CHECK: host-local: Failed to find address added by container")
	r.del(list, c)

	// The runtime's own range, through the capability ipRanges.
	other := r.sandbox("hl-range")
	other.rt.CapabilityArgs = map[string]any{"ipRanges": [][]map[string]string{{{"subnet": "198.51.100.0/24"}}}}
	if result := r.add(list, other); result.IPs[0].Address.IP.String() != "198.51.100.2" {
		r.Errorf("result %v", result)
	}
	r.del(list, other)
	r.until("the addresses are given back", func() bool { return r.reserved(dir, "hl") == "" })

	// What fails after the assignment takes it back.
	broken := r.sandbox("hl-broken")
	broken.rt.NetNS = "/proc/1/ns/none"
	_, err := r.cni.AddNetworkList(r.Context(), list, broken.rt)
	r.wantCode(err, 4, "/proc/1/ns/none")
	r.until("the addresses are given back", func() bool { return r.reserved(dir, "hl") == "" })
}

func (r runtime) hostLocalFull() {
	dir := r.TempDir()
	list := r.list("hlfull", "1.0.0", withHostLocal(dir, "192.0.2.0/30"))
	first, second := r.sandbox("hlfull-1"), r.sandbox("hlfull-2")
	r.add(list, first)
	_, err := r.cni.AddNetworkList(r.Context(), list, second.rt)
	if err == nil || !strings.Contains(err.Error(), "IPAM plugin host-local: ADD: ") || !strings.Contains(err.Error(), "no IP addresses available in range set: 192.0.2.1-192.0.2.2") {
		r.Errorf("ADD without a free address: %v", err)
	}
	r.del(list, second)
	r.del(list, first)
	r.until("the addresses are given back", func() bool { return r.reserved(dir, "hlfull") == "" })
}

func (r runtime) static() {
	list := r.list("st", "1.1.0", `{"type": "calico", "policy": {"type": "k8s"},
		"ipam": {"type": "static", "addresses": [{"address": "192.0.2.77/24"}], "dns": {"nameservers": ["192.0.2.53"]}}}`)
	c := r.sandbox("st")
	r.must(r.cni.GetStatusNetworkList(r.Context(), list))
	result := r.add(list, c)
	if len(result.IPs) != 1 || result.IPs[0].Address.String() != "192.0.2.77/32" || len(result.DNS.Nameservers) != 1 {
		r.Errorf("result %v", result)
	}
	r.check(list, c)
	r.must(r.cni.GCNetworkList(r.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: c.ContainerID, IfName: "eth0"}}}))
	r.check(list, c)
	r.must(r.cni.GCNetworkList(r.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}))
	r.del(list, c)
}

func (r runtime) ipamPluginMissing() {
	list := r.list("none", "1.1.0", `{"type": "calico", "ipam": {"type": "sticky"}}`)
	r.wantCode(r.cni.GetStatusNetworkList(r.Context(), list), 50, "IPAM plugin sticky: felix does not find it in CNI_PATH ")
	c := r.sandbox("none")
	_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
	r.wantCode(err, 7, "IPAM plugin sticky: felix does not find it in CNI_PATH ")
	r.del(list, c)
}

// wishes are what a pod gets that asks for it by capabilities, and by the annotations
// that containerd and CRI-O hand over.
func (r runtime) wishes() {
	r.apply("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: gold}\nspec: {cidr: 10.98.0.0/24, ipipMode: Never, vxlanMode: Never}\n")
	defer r.onNode("calicoctl delete ippool gold")
	list := r.list("wishes", "1.1.0", `{"type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}, "feature_control": {"ip_addrs_no_ipam": true},
		"capabilities": {"ips": true, "mac": true, "io.kubernetes.cri.pod-annotations": true}}`)
	const mac = "02:00:00:00:77:01"
	for name, tc := range map[string]struct {
		args     map[string]any
		addr, is string
	}{
		"ips":           {map[string]any{"ips": []string{"10.98.0.7"}}, "10.98.0.7", "10.98.0.7/32"},
		"mac":           {map[string]any{"ips": []string{"10.98.0.8"}, "mac": mac}, "10.98.0.8", mac},
		"ipAddrs":       {annotated("ipAddrs", `["10.98.0.9"]`), "10.98.0.9", "10.98.0.9/32"},
		"ipAddrsNoIpam": {annotated("ipAddrsNoIpam", `["192.0.2.99"]`), "192.0.2.99", "192.0.2.99/32"},
		"ipv4pools":     {annotated("ipv4pools", `["gold"]`), "", " 10.98.0."},
		"hwAddr":        {annotated("hwAddr", mac), "", mac},
	} {
		r.Run(name, func(t *testing.T) {
			r := runtime{t, r.l, r.cni}
			c := r.sandbox("wish-" + strings.ToLower(name))
			c.rt.CapabilityArgs = tc.args
			result := r.add(list, c)
			addr := result.IPs[0].Address.IP.String()
			if have := r.inPod(c, "ip addr show dev eth0"); !strings.Contains(have, tc.is) || tc.addr != "" && addr != tc.addr {
				r.Errorf("want %s with %s, got\n%s", tc.addr, tc.is, have)
			}
			r.onNode("ping -c 1 -W 5 " + addr)
			r.check(list, c)
			taken := r.sandbox("wish-again-" + strings.ToLower(name))
			if taken.rt.CapabilityArgs = tc.args; name == "ips" {
				_, err := r.cni.AddNetworkList(r.Context(), list, taken.rt)
				r.wantCode(err, 11, "address is in use")
			}
			r.del(list, taken)
			r.del(list, c)
		})
	}
	c := r.sandbox("wish-floating")
	c.rt.CapabilityArgs = annotated("floatingIPs", `["10.98.0.10"]`)
	_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
	r.wantCode(err, 7, `annotation cni.projectcalico.org/floatingIPs of the pod: the network configuration does not allow it; add "feature_control": {"floating_ips": true}`)
	r.del(list, c)
	for _, addr := range []string{"9.9.9.9", "127.0.0.1", "224.0.0.1"} { // which no other try would find
		c := r.sandbox("wish-nowhere-" + strings.ReplaceAll(addr, ".", "-"))
		c.rt.Args = append(c.rt.Args, [2]string{"IP", addr})
		_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
		r.wantCode(err, 7, "ADD: the address that is asked for, "+addr+": no usable IP pool: it lies in no IP pool")
		r.del(list, c)
	}
	for addr, says := range map[string]string{
		"10.98.0.77": "10.98.0.77 lies in IP pool gold, which may give it to another pod",
		r.l.Topology().Nodes[0].V4.Addr().String(): " is an address of this node; choose another",
	} {
		c := r.sandbox("wish-of-others-" + strings.ReplaceAll(addr, ".", "-"))
		c.rt.CapabilityArgs = annotated("ipAddrsNoIpam", `["`+addr+`"]`)
		_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
		r.wantCode(err, 7, says)
		r.del(list, c)
	}
	r.more()
}

// more is what a pod gets besides its addresses: when ADD returns, its packet rules stand.
func (r runtime) more() {
	list := r.list("more", "1.1.0", `{"type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}, "feature_control": {"floating_ips": true},
		"capabilities": {"io.kubernetes.cri.pod-annotations": true}}`)
	for annotation, tc := range map[string]struct{ value, refused, set, is string }{
		"floatingIPs":           {`["10.98.0.10"]`, "floating addresses are disabled; set floatingIPs: Enabled in the FelixConfiguration", "map inet tortie floating-ipv4", "10.98.0.10 : "},
		"allowedSourcePrefixes": {`["192.0.2.0/24"]`, "set workloadSourceSpoofing: Any in the FelixConfiguration", "set inet tortie allowed-sources-ipv4", " . 192.0.2.0/24"},
	} {
		c := r.sandbox("more-" + strings.ToLower(annotation))
		c.rt.CapabilityArgs = annotated(annotation, tc.value)
		_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
		r.wantCode(err, 7, "annotation cni.projectcalico.org/"+annotation+" of the pod: ")
		r.wantCode(err, 7, tc.refused)
		r.del(list, c)
		r.apply("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {floatingIPs: Enabled, workloadSourceSpoofing: Any}\n")
		r.until("ADD to be permitted what it asks for", func() bool {
			_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
			return err == nil
		})
		if have := r.onNode("nft list " + tc.set); !strings.Contains(have, tc.is) {
			r.Errorf("when ADD returns its rules are\n%s", have)
		}
		if annotation == "floatingIPs" {
			r.onNode("ping -c 1 -W 5 10.98.0.10")
		}
		r.check(list, c)
		r.del(list, c)
		r.onNode("calicoctl delete felixconfiguration default")
		r.until("it to be forbidden again", func() bool {
			_, err := r.cni.AddNetworkList(r.Context(), list, c.rt)
			r.del(list, c)
			return err != nil
		})
	}
}

// limits are in the kernel when ADD returns, are changed while the pod runs, and leave
// nothing behind.
func (r runtime) limits() {
	list := r.list("limits", "1.1.0", `{"type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
		"capabilities": {"bandwidth": true, "io.kubernetes.cri.pod-annotations": true}}`)
	c := r.sandbox("limits")
	annotations := map[string]string{
		"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "4M",
		"qos.projectcalico.org/egressPacketRate": "100", "qos.projectcalico.org/ingressMaxConnections": "7", "qos.projectcalico.org/dscp": "EF",
	}
	c.rt.CapabilityArgs = map[string]any{
		"bandwidth":                         map[string]any{"ingressRate": 8000000, "ingressBurst": 2147483647, "egressRate": 4000000, "egressBurst": 2147483647},
		"io.kubernetes.cri.pod-annotations": annotations,
	}
	device := r.add(list, c).Interfaces[0].Name
	want := func(when, command string, parts ...string) {
		r.Helper()
		have := r.onNode(command)
		for _, part := range parts {
			if !strings.Contains(have, part) {
				r.Errorf("%s: %s: want %q, got\n%s", when, command, part, have)
			}
		}
	}
	shapers := "tc qdisc show"
	want("ADD", "tc qdisc show dev "+device, "qdisc tbf 80: root", "rate 8Mbit")
	want("ADD", "tc filter show dev "+device+" parent ffff:", "pref 80 u32", "Egress Redirect to device bwcali")
	want("ADD", shapers, "qdisc tbf 80: dev bwcali", "rate 4Mbit")
	want("ADD", "nft list table inet tortie", "limit-from-"+device+" {", "limit rate over 100/second", "ct count over 7 reject with tcp reset", "ip dscp set ef")
	r.check(list, c)
	r.onNode("tc qdisc del dev " + device + " root")
	r.until("the bucket that was taken away is back at once", func() bool {
		return strings.Contains(r.onNode("tc qdisc show dev "+device), "qdisc tbf 80: root")
	})
	r.check(list, c)

	changed := `{"spec":{"qosControls":{"ingressBandwidth":2000000,"egressBandwidth":null,"egressBurst":null,"egressPacketRate":null,"egressPacketBurst":null,"dscp":null}}}`
	r.onNode("calicoctl patch workloadendpoint node1-k8s-" + strings.ReplaceAll(c.Name, "-", "--") + "-eth0 -n default -p " + changed)
	r.until("the other limits hold", func() bool {
		qdiscs, rules := r.onNode("tc qdisc show"), r.onNode("nft list table inet tortie")
		return strings.Contains(qdiscs, "rate 2Mbit") && !strings.Contains(qdiscs, "bwcali") && strings.Contains(rules, "limit-to-"+device) && !strings.Contains(rules, "limit-from-"+device) && !strings.Contains(rules, "dscp set")
	})
	annotations["qos.projectcalico.org/dscp"] = "65"
	other := r.sandbox("limits-wrong")
	other.rt.CapabilityArgs = c.rt.CapabilityArgs
	_, err := r.cni.AddNetworkList(r.Context(), list, other.rt)
	r.wantCode(err, 7, `annotation qos.projectcalico.org/dscp of the pod: "65": want 0 to 63, or a name such as EF or AF11`)
	r.del(list, other)
	r.del(list, c)
	r.until("nothing is left", func() bool {
		return !strings.Contains(r.onNode("tc qdisc show"), "tbf") && !strings.Contains(r.onNode("nft list ruleset"), "limit")
	})
}

func annotated(annotation, value string) map[string]any {
	return map[string]any{"io.kubernetes.cri.pod-annotations": map[string]string{"cni.projectcalico.org/" + annotation: value}}
}

// listOfThePage is the list of plugins that docs/cni.md shows.
func (r runtime) listOfThePage() *libcni.NetworkConfigList {
	r.Helper()
	page, err := os.ReadFile("../../docs/cni.md")
	r.must(err)
	_, shown, _ := strings.Cut(string(page), "## A list of plugins\n\n```\n")
	shown, _, _ = strings.Cut(shown, "```")
	list, err := libcni.NetworkConfFromBytes([]byte(shown))
	r.must(err)
	return list
}

// chain has what a runtime puts behind the main plugin.
func (r runtime) chain() {
	list := r.listOfThePage()
	if len(list.Plugins) != 4 || list.CNIVersion != "1.1.0" {
		r.Fatalf("the page shows %s", list.Bytes)
	}
	c := r.sandbox("chain")
	c.rt.CapabilityArgs = map[string]any{
		"portMappings": []map[string]any{{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":    map[string]any{"ingressRate": 8000000, "ingressBurst": 800000},
	}
	result := r.add(list, c)
	device := result.Interfaces[0].Name
	if got := r.answerThrough(c, ":80", "outside", "10.10.1.1:18080"); got != "198.51.100.10" {
		r.Errorf("the port of the node leads to the pod, which sees %q, want the outside host", got)
	}
	if qdisc := r.onNode("tc qdisc show dev " + device); !strings.Contains(qdisc, "tbf") || !strings.Contains(qdisc, "rate 8Mbit") {
		r.Errorf("bandwidth left %s", qdisc)
	}
	if value := r.inPod(c, "sysctl -n net.ipv4.conf.eth0.arp_notify"); strings.TrimSpace(value) != "1" {
		r.Errorf("tuning left %s", value)
	}
	r.check(list, c)
	r.inPod(c, "sysctl -w net.ipv4.conf.eth0.arp_notify=0")
	r.check(list, c, "arp_notify")
	r.del(list, c)
	if rules := r.onNode("nft list ruleset"); strings.Contains(rules, "18080") {
		r.Errorf("after DEL there is\n%s", rules)
	}
}

// chainBeforeAndBehind has a plugin before calico, whose result goes on, and tuning behind
// it, which changes what calico has made: CHECK holds the pod against the chain's result,
// and felix leaves the pod's side as it became.
func (r runtime) chainBeforeAndBehind(cniVersion string) {
	const mac = "02:00:00:00:77:02"
	list := r.list("tuned", cniVersion, `{"type": "loopback"}`, calicoPlugin, `{"type": "tuning", "mac": "`+mac+`", "mtu": 1300}`)
	c := r.sandbox("tuned")
	result := r.add(list, c)
	r.wantChained(result, mac)
	tuned := func(when string) {
		r.Helper()
		if link := r.inPod(c, "ip link show dev eth0"); !strings.Contains(link, mac) || !strings.Contains(link, "mtu 1300") {
			r.Errorf("%s: tuning left %s", when, link)
		}
		for _, ip := range result.IPs[2:] {
			r.onNode("ping -c 1 -W 5 " + ip.Address.IP.String())
		}
		r.check(list, c)
	}
	tuned("ADD")
	if diff := cmp.Diff(result, r.add(list, c)); diff != "" {
		r.Errorf("a repeated ADD answers otherwise (-first +second):\n%s", diff)
	}
	tuned("repeated ADD")
	for command, says := range map[string]string{
		"ip link set eth0 address 02:00:00:00:77:03": "eth0 has MAC address 02:00:00:00:77:03 instead of " + mac,
		"ip link set eth0 mtu 1350":                  "MTU of eth0 is 1300, current value is 1350", // tuning says so
		"ip link set eth0 mtu 1500":                  "eth0 has MTU 1500, more than the 1400 of its other end",
		"ip addr del ADDR/32 dev eth0":               "eth0 does not have the address ADDR",
		"ip route del default":                       "the route default via 169.254.1.1 dev eth0 is missing",
	} {
		addr := strings.NewReplacer("ADDR", result.IPs[2].Address.IP.String())
		r.inPod(c, addr.Replace(command))
		r.check(list, c, addr.Replace(says))
		r.add(list, c)
		r.check(list, c)
	}
	r.del(list, c)
}

// wantChained demands the loopback's part of a chain's result, ours behind it, and the MAC
// address that tuning has given to our interface.
func (r runtime) wantChained(result *types100.Result, mac string) {
	r.Helper()
	var interfaces, addrs []string
	for _, i := range result.Interfaces {
		interfaces = append(interfaces, strings.TrimRight(i.Name, "0123456789abcdef"))
	}
	for _, ip := range result.IPs {
		ones, _ := ip.Address.Mask.Size()
		addrs = append(addrs, fmt.Sprintf("%s/%d", result.Interfaces[*ip.Interface].Name, ones))
	}
	if got, want := strings.Join(interfaces, " "), "lo cali eth"; got != want {
		r.Fatalf("interfaces %s, want %s", got, want)
	}
	if got, want := strings.Join(addrs, " "), "lo/8 lo/128 eth0/32 eth0/128"; got != want {
		r.Fatalf("addresses %s, want %s", got, want)
	}
	if result.Interfaces[2].Mac != mac || result.Interfaces[2].Sandbox == "" {
		r.Errorf("interface %+v", result.Interfaces[2])
	}
}

// calicoIPAMUnder has the addresses of two containers on a segment from calico-ipam.
func (r runtime) calicoIPAMUnder(main string) {
	list := r.list("lan", "1.0.0", "{"+main+`, "ipam": {"type": "calico-ipam"}}`)
	a, b := r.sandbox("lan-a"), r.sandbox("lan-b")
	result := r.add(list, a)
	if ones, _ := result.IPs[0].Address.Mask.Size(); len(result.IPs) != 1 || ones != 26 {
		r.Errorf("result %v", result)
	}
	r.check(list, a) // before another joins: a bridge takes the lowest MAC address of its ports
	r.add(list, b)
	r.inPod(b, "ping -c 1 -W 5 "+result.IPs[0].Address.IP.String())
	for _, c := range []sandbox{a, b} {
		r.del(list, c)
		r.del(list, c)
	}
	r.wishesUnder(main)
}
