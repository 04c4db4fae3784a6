package api_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

// validation is a manifest, in short, and what is wrong with it.
type validation struct {
	kind, name, spec string
	want             []string // nothing when the object is valid
}

func checkValidations(t *testing.T, tests []validation) {
	t.Helper()
	reg := api.NewRegistry()
	for _, tt := range tests {
		info, ok := reg.Lookup(tt.kind)
		if !ok {
			t.Fatalf("kind %s", tt.kind)
		}
		meta := `"metadata":{"name":"` + tt.name + `"`
		if info.Namespaced {
			meta += `,"namespace":"ns1"`
		}
		obj, err := reg.DecodeStrict([]byte(doc(tt.kind, meta+`},"spec":{`+tt.spec+`}`)))
		if err != nil {
			t.Fatal(err)
		}
		reg.Default(obj)
		err = reg.Validate(obj)
		var invalid *api.ValidationError
		if err != nil && !errors.As(err, &invalid) {
			t.Fatalf("%v is no ValidationError", err)
		}
		var got []string
		if invalid != nil {
			for _, p := range invalid.Problems {
				got = append(got, p.String())
			}
		}
		if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
			t.Errorf("%s(%s) {%s}\ngot  %s\nwant %s", tt.kind, tt.name, tt.spec, strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
		}
	}
}

func bad(problems ...string) []string { return problems }

func TestValidationErrorIsOneLine(t *testing.T) {
	reg := api.NewRegistry()
	pool := v3.NewIPPool()
	pool.Name, pool.Spec.CIDR, pool.Spec.BlockSize = "p", "10.0.0.1/16", 33
	pool.Spec.VXLANMode = "Sometimes"
	want := `IPPool(p): spec.cidr: "10.0.0.1/16": has host bits; did you mean 10.0.0.0/16?; spec.vxlanMode: "Sometimes": want one of Never, Always, CrossSubnet`
	if err := reg.Validate(pool); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestValidateNames(t *testing.T) {
	const charset = `want lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part`
	checkValidations(t, []validation{
		{"Node", "node-1.example.com", ``, nil},
		{"Node", "rack1/node1", ``, bad(`metadata.name: "rack1/node1": must not contain a slash; want lower-case letters, digits, '-' and '.'`)},
		{"Node", "Node1", ``, bad(`metadata.name: "Node1": ` + charset)},
		{"Node", "-a", ``, bad(`metadata.name: "-a": ` + charset)},
		{"Node", "a..b", ``, bad(`metadata.name: "a..b": ` + charset)},
		{"Node", "", ``, bad(`metadata.name: is missing`)},
		{"Node", strings.Repeat("a", 254), ``, bad(`metadata.name: "` + strings.Repeat("a", 254) + `": is 254 characters long, want at most 253`)},
		{"NetworkSet", "s", ``, nil},
	})
	reg := api.NewRegistry()
	for manifest, want := range map[string]string{
		doc("NetworkSet", `"metadata":{"name":"s"}`):                                 `NetworkSet(s): metadata.namespace: is missing`,
		doc("Profile", `"metadata":{"name":"p","namespace":"ns"}`):                   `Profile(ns/p): metadata.namespace: "ns": Profile has no namespace`,
		doc("Profile", `"metadata":{"name":"p","labels":{"a b":"c"}}`):               `Profile(p): metadata.labels: "a b": is not a label name: want letters, digits, '-', '_' and '.', with an optional domain before a slash`,
		doc("Profile", `"metadata":{"name":"p","labels":{"a":"c d"}}`):               `Profile(p): metadata.labels[a]: "c d": want at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends`,
		doc("Profile", `"metadata":{"name":"projectcalico-default-allow"}`):          `Profile(projectcalico-default-allow): metadata.name: "projectcalico-default-allow": this profile is part of the system and can't be changed; choose another name`,
		doc("ClusterInformation", `"metadata":{"name":"other"}`):                     `ClusterInformation(other): metadata.name: "other": there is only one ClusterInformation, want default`,
		doc("IPAMConfig", `"metadata":{"name":"other"}`):                             `IPAMConfig(other): metadata.name: "other": there is only one IPAMConfig, want default`,
		doc("Tier", `"metadata":{"name":"a.b"}`):                                     `Tier(a.b): metadata.name: "a.b": the name of a tier must not contain a dot`,
		doc("Tier", `"metadata":{"name":"default"},"spec":{"order":5}`):              `Tier(default): spec.order: tier default always has order 1000000, not 5`,
		doc("Tier", `"metadata":{"name":"default"},"spec":{"defaultAction":"Pass"}`): `Tier(default): spec.defaultAction: "Pass": tier default always has Deny`,
		doc("Tier", `"metadata":{"name":"t"},"spec":{"defaultAction":"Allow"}`):      `Tier(t): spec.defaultAction: "Allow": want one of Deny, Pass`,
	} {
		obj, err := reg.DecodeStrict([]byte(manifest))
		if err != nil {
			t.Fatal(err)
		}
		reg.Default(obj)
		if err := reg.Validate(obj); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if err := reg.Validate(&v3.IPAMConfiguration{}); err == nil {
		t.Error("an object of a foreign type is valid")
	}
}

func TestValidateIPPools(t *testing.T) {
	checkValidations(t, []validation{
		{"IPPool", "p", `"cidr":"10.0.0.0/16"`, nil},
		{"IPPool", "p", `"cidr":"fd00::/48"`, nil},
		{"IPPool", "p", `"cidr":"10.0.0.0/26"`, nil},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","ipipMode":"CrossSubnet"`, nil},
		{"IPPool", "p", `"cidr":"fd00::/48","vxlanMode":"Always"`, nil},
		{"IPPool", "p", `"cidr":"10.0.0.0/24","allowedUses":["LoadBalancer"]`, nil},
		{"IPPool", "p", ``, bad(`spec.cidr: is missing, want a CIDR such as 10.65.0.0/16`)},
		{"IPPool", "p", `"cidr":"10.0.0.0"`, bad(`spec.cidr: "10.0.0.0": want a CIDR such as 10.65.0.0/16`)},
		{"IPPool", "p", `"cidr":"10.0.0.1/16"`, bad(`spec.cidr: "10.0.0.1/16": has host bits; did you mean 10.0.0.0/16?`)},
		{"IPPool", "p", `"cidr":"::ffff:10.0.0.0/112"`, bad(`spec.cidr: "::ffff:10.0.0.0/112": want a CIDR such as 10.65.0.0/16`)},
		{"IPPool", "p", `"cidr":"0.0.0.0/0"`, bad(`spec.cidr: "0.0.0.0/0": takes in all addresses`)},
		{"IPPool", "p", `"cidr":"169.254.1.0/24"`, bad(`spec.cidr: "169.254.1.0/24": overlaps 169.254.0.0/16, which can't be routed`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","blockSize":19`, bad(`spec.blockSize: 19: want 20 to 32`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","blockSize":33`, bad(`spec.blockSize: 33: want 20 to 32`)},
		{"IPPool", "p", `"cidr":"fd00::/48","blockSize":64`, bad(`spec.blockSize: 64: want 116 to 128`)},
		{"IPPool", "p", `"cidr":"fd00::/48","blockSize":129`, bad(`spec.blockSize: 129: want 116 to 128`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/28"`, bad(`spec.blockSize: 26: a block would be larger than the pool 10.0.0.0/28; want 28 to 32`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","ipipMode":"always"`, bad(`spec.ipipMode: "always": want one of Never, Always, CrossSubnet`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","ipipMode":"Always","vxlanMode":"CrossSubnet"`, bad(`spec.ipipMode: "Always": a pool has one encapsulation, and vxlanMode is CrossSubnet; set one of the two to Never`)},
		{"IPPool", "p", `"cidr":"fd00::/48","ipipMode":"Always"`, bad(`spec.ipipMode: "Always": IPIP carries only IPv4; an IPv6 pool wants Never`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","allowedUses":["Workloads"]`, bad(`spec.allowedUses[0]: "Workloads": want one of Workload, Tunnel, LoadBalancer`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","allowedUses":["Workload","Workload"]`, bad(`spec.allowedUses[1]: Workload: is given twice`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","allowedUses":["LoadBalancer","Tunnel"]`, bad(`spec.allowedUses: "[LoadBalancer Tunnel]": LoadBalancer can't be combined with other uses`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","allowedUses":["LoadBalancer"],"ipipMode":"Always","nodeSelector":"has(a)"`, bad(
			`spec.allowedUses: a pool for LoadBalancer has no encapsulation; set ipipMode and vxlanMode to Never`,
			`spec.nodeSelector: "has(a)": a pool for LoadBalancer belongs to no node; want all()`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","nodeSelector":"rack = 'a'"`, bad(`spec.nodeSelector: "rack = 'a'": column 6: want ==, !=, in, not in, contains, starts with or ends with, got "="`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","namespaceSelector":"global()"`, bad(`spec.namespaceSelector: "global()": global() is only allowed in the namespaceSelector of a rule`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","assignmentMode":"Never"`, bad(`spec.assignmentMode: "Never": want one of Automatic, Manual`)},
		{"IPPool", "p", `"cidr":"10.0.0.0/16","ipip":{"enabled":true},"nat-outgoing":true`, bad(`spec.ipip: is not supported any more; use spec.ipipMode`, `spec.nat-outgoing: is not supported any more; use spec.natOutgoing`)},
		{"IPReservation", "r", `"reservedCIDRs":["10.0.0.0/30","10.0.0.9","fd00::1"]`, nil},
		{"IPReservation", "r", `"reservedCIDRs":["10.0.0.0/30","10.0.0.0-10.0.0.9"]`, bad(`spec.reservedCIDRs[1]: "10.0.0.0-10.0.0.9": want a CIDR or address such as 10.65.0.0/16`)},
	})
}

func TestCheckPoolsRefusesOverlap(t *testing.T) {
	pool := func(name, cidr string) *v3.IPPool {
		p := v3.NewIPPool()
		p.Name, p.Spec.CIDR = name, cidr
		return p
	}
	existing := []*v3.IPPool{pool("a", "10.0.0.0/16"), pool("b", "fd00::/48"), pool("broken", "?")}
	tests := []struct {
		pool *v3.IPPool
		want string
	}{
		{pool("new", "10.1.0.0/16"), ""},
		{pool("new", "fd01::/48"), ""},
		{pool("a", "10.0.0.0/15"), ""}, // itself
		{pool("new", "?"), ""},         // said by Validate
		{pool("new", "10.0.128.0/24"), `IPPool(new): spec.cidr: "10.0.128.0/24": overlaps 10.0.0.0/16 of IP pool a; choose another CIDR or delete that pool first`},
		{pool("new", "fd00::/16"), `IPPool(new): spec.cidr: "fd00::/16": overlaps fd00::/48 of IP pool b; choose another CIDR or delete that pool first`},
	}
	for _, tt := range tests {
		got := ""
		if err := api.CheckPools(tt.pool, existing); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestValidateBGP(t *testing.T) {
	const peerIP = `want an address such as 192.0.2.1 or fd00::1, or with a port 192.0.2.1:1790 or [fd00::1]:1790`
	checkValidations(t, []validation{
		{"BGPPeer", "p", `"peerIP":"192.0.2.1","asNumber":64512`, nil},
		{"BGPPeer", "p", `"peerIP":"192.0.2.1:1790","asNumber":64512`, nil},
		{"BGPPeer", "p", `"peerIP":"[fd00::1]:1790","asNumber":64512,"reachableBy":"fd00::2"`, nil},
		{"BGPPeer", "p", `"localWorkloadSelector":"has(bgp)","asNumber":64512`, nil},
		{"BGPPeer", "p", `"nodeSelector":"all()","peerSelector":"has(rr)"`, nil},
		{"BGPPeer", "p", ``, bad(`spec: says no peer: set peerIP and asNumber, or peerSelector, or localWorkloadSelector and asNumber`)},
		{"BGPPeer", "p", `"peerIP":"192.0.2.1"`, bad(`spec.asNumber: peer without ASN: the AS number of the peer is required with peerIP, want 1 to 4294967295`)},
		{"BGPPeer", "p", `"peerIP":"192.0.2.1:0","asNumber":1`, bad(`spec.peerIP: "192.0.2.1:0": ` + peerIP)},
		{"BGPPeer", "p", `"peerIP":"192.0.2.1/32","asNumber":1`, bad(`spec.peerIP: "192.0.2.1/32": ` + peerIP)},
		{"BGPPeer", "p", `"peerIP":"tor.example","asNumber":1`, bad(`spec.peerIP: "tor.example": ` + peerIP)},
		{"BGPPeer", "p", `"peerIP":"fe80::1%eth0","asNumber":1`, bad(`spec.peerIP: "fe80::1%eth0": ` + peerIP)},
		{"BGPPeer", "p", `"peerIP":"fe80::1","asNumber":1`, bad(`spec.peerIP: "fe80::1": is link-local, and nothing says on which interface; set it to a global or unique local address of the peer, such as fd00::1`)},
		{"BGPPeer", "p", `"peerIP":"127.0.0.1","asNumber":1`, bad(`spec.peerIP: "127.0.0.1": no peer can have this address; set it to that of the router to peer with`)},
		{"BGPPeer", "p", `"node":"n1","nodeSelector":"all()","peerIP":"192.0.2.1","asNumber":1`, bad(`spec.nodeSelector: "all()": can't be combined with spec.node; set one of the two`)},
		{"BGPPeer", "p", `"peerIP":"192.0.2.1","peerSelector":"has(rr)"`, bad(`spec: peerIP and peerSelector can't be combined; set one of them`)},
		{"BGPPeer", "p", `"peerSelector":"has(rr)","asNumber":64512`, bad(`spec.asNumber: 64512: can't be combined with peerSelector: the AS number is that of the selected nodes`)},
		{"BGPPeer", "p", `"peerSelector":"has(rr"`, bad(`spec.peerSelector: "has(rr": column 7: want ), got the end`)},
		{"BGPPeer", "p", `"peerIP":"192.0.2.1","asNumber":1,"reachableBy":"fd00::2"`, bad(`spec.reachableBy: "fd00::2": want an IPv4 address`)},
		{"BGPPeer", "p", `"peerSelector":"has(rr)","reachableBy":"192.0.2.2"`, bad(`spec.reachableBy: "192.0.2.2": needs spec.peerIP`)},
		{"BGPPeer", "p", `"peerSelector":"has(rr)","password":{"secretKeyRef":{"name":"../x","key":"../../k"}}`, bad(
			`spec.password.secretKeyRef.name: "../x": want the name of a secret: lower case letters, digits, '-' and '.', at most 253`,
			`spec.password.secretKeyRef.key: "../../k": want a key of a secret: letters, digits, '-', '_' and '.', at most 253, not beginning with '..'`,
		)},
		{"BGPPeer", "p", `"peerSelector":"has(rr)","password":{"secretKeyRef":{"name":"Bgp_x","key":"a b"}}`, bad(
			`spec.password.secretKeyRef.name: "Bgp_x": want the name of a secret: lower case letters, digits, '-' and '.', at most 253`,
			`spec.password.secretKeyRef.key: "a b": want a key of a secret: letters, digits, '-', '_' and '.', at most 253, not beginning with '..'`,
		)},
		{"BGPPeer", "p", `"peerSelector":"has(rr)","localASNumber":0,"nextHopMode":"Drop","sourceAddress":"Any","maxRestartTime":"2h","numAllowedLocalASNumbers":-1,"ttlSecurity":255,"filters":["F"],"reversePeering":"No","password":{}`, bad(
			`spec.localASNumber: 0: want 1 to 4294967295`,
			`spec.nextHopMode: "Drop": want one of Auto, Self, Keep`,
			`spec.password.secretKeyRef: want the name of a secret and a key in it`,
			`spec.sourceAddress: "Any": want one of UseNodeIP, None`,
			`spec.maxRestartTime: 2h0m0s: want at most 1h8m15s`,
			`spec.numAllowedLocalASNumbers: -1: want 0 to 255`,
			`spec.ttlSecurity: 255: want 0 to 254`,
			`spec.filters[0]: "F": want lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part`,
			`spec.reversePeering: "No": want one of Auto, Manual`)},
		{"BGPConfiguration", "default", `"asNumber":64512,"nodeToNodeMeshEnabled":false,"listenPort":1790,"bindMode":"None"`, nil},
		{"BGPConfiguration", "node.n1", `"logSeverityScreen":"Debug","listenPort":1790`, nil},
		{"BGPConfiguration", "default", `"asNumber":0`, bad(`spec.asNumber: 0: want 1 to 4294967295`)},
		{"BGPConfiguration", "node.n1", `"asNumber":64512,"nodeToNodeMeshEnabled":true`, bad(
			`spec.asNumber: can only be set in the BGPConfiguration named default`, `spec.nodeToNodeMeshEnabled: can only be set in the BGPConfiguration named default`)},
		{"BGPConfiguration", "default", `"nodeToNodeMeshEnabled":false,"nodeMeshMaxRestartTime":"1m"`, bad(`spec.nodeMeshMaxRestartTime: needs the node-to-node mesh, but spec.nodeToNodeMeshEnabled is false`)},
		{"BGPConfiguration", "default", `"nodeMeshMaxRestartTime":"-1s"`, bad(`spec.nodeMeshMaxRestartTime: -1s: must not be negative`)},
		{"BGPConfiguration", "default", `"logSeverityScreen":"Verbose","bindMode":"All","ignoredInterfaces":["*"]`, bad(
			`spec.logSeverityScreen: "Verbose": want one of Trace, Debug, Info, Warning, Error, Fatal`,
			`spec.bindMode: "All": want one of None, NodeIP`,
			`spec.ignoredInterfaces[0]: "*": want the name of a network device, '*' for any characters but not alone`)},
		{"BGPConfiguration", "default", `"ignoredInterfaces":["eth*","*.100","br-lan","enp3s0f0np0"]`, nil},
		{"BGPConfiguration", "default", `"ignoredInterfaces":["eth[","eth?","**","a-name-of-a-device"]`, bad(
			`spec.ignoredInterfaces[0]: "eth[": want the name of a network device, '*' for any characters but not alone`,
			`spec.ignoredInterfaces[1]: "eth?": want the name of a network device, '*' for any characters but not alone`,
			`spec.ignoredInterfaces[2]: "**": want the name of a network device, '*' for any characters but not alone`,
			`spec.ignoredInterfaces[3]: "a-name-of-a-device": want the name of a network device, '*' for any characters but not alone`)},
		{"BGPConfiguration", "default", `"communities":[{"name":"c","value":"64512:100"},{"name":"l","value":"4200000000:1:2"}],"prefixAdvertisements":[{"cidr":"10.0.0.0/8","communities":["c","1:2"]}]`, nil},
		{"BGPConfiguration", "default", `"communities":[{"name":"c","value":"70000:1"},{"name":"c","value":"1:2:3:4"},{"value":"1:2"}]`, bad(
			`spec.communities[0].value: "70000:1": want a community aa:nn (16 bits each) or aa:nn:mm (32 bits each)`,
			`spec.communities[1].name: "c": is given twice`,
			`spec.communities[1].value: "1:2:3:4": want a community aa:nn (16 bits each) or aa:nn:mm (32 bits each)`,
			`spec.communities[2].name: is missing`)},
		{"BGPConfiguration", "default", `"prefixAdvertisements":[{"cidr":"10.0.0.1/8","communities":["c"]},{"communities":[]}]`, bad(
			`spec.prefixAdvertisements[0].cidr: "10.0.0.1/8": has host bits; did you mean 10.0.0.0/8?`,
			`spec.prefixAdvertisements[0].communities[0]: "c": is neither a name in spec.communities nor a value aa:nn or aa:nn:mm`,
			`spec.prefixAdvertisements[1].cidr: is missing, want a CIDR such as 10.65.0.0/16`,
			`spec.prefixAdvertisements[1].communities: is missing, want names from spec.communities or values aa:nn or aa:nn:mm`)},
		{"BGPConfiguration", "default", `"serviceClusterIPs":[{"cidr":"10.96.0.0"}],"serviceLoadBalancerAggregation":"On","localWorkloadPeeringIPV4":"fd00::1"`, bad(
			`spec.serviceClusterIPs[0].cidr: "10.96.0.0": want a CIDR such as 10.65.0.0/16`,
			`spec.serviceLoadBalancerAggregation: "On": want one of Enabled, Disabled`,
			`spec.localWorkloadPeeringIPV4: "fd00::1": want an IPv4 address`)},
		{"AdvertisedService", "web", `"clusterIPs":["10.96.0.10"],"externalTrafficPolicy":"Local","ipv4Endpoints":{"nodes":["node1"]}`, nil},
		{"AdvertisedService", "web", `"externalIPs":["192.0.2.0/24"],"loadBalancerIPs":["x"],"externalTrafficPolicy":"Near","ipv6Endpoints":{"nodes":["a/b"]}`, bad(
			`spec.externalIPs[0]: "192.0.2.0/24": want an IP address such as 10.0.0.1`,
			`spec.externalTrafficPolicy: "Near": want one of Cluster, Local`,
			`spec.ipv6Endpoints.nodes[0]: "a/b": must not contain a slash; want lower-case letters, digits, '-' and '.'`,
			`spec.loadBalancerIPs[0]: "x": want an IP address such as 10.0.0.1`)},
		{"IPAMLoan", "node1/10.0.0.0-26", `"node":"node1","cidr":"10.0.0.0/26"`, nil},
		{"IPAMHistory", "10.0.0.0-26.1", `"first":16,"releases":[{"address":"10.0.0.5","handle":"h","released":"2026-11-22T02:00:29Z","reason":"CNI DEL"}]`, nil},
		{"IPAMHistory", "10.0.0.0-26", `"first":16,"releases":[]`, bad(
			`metadata.name: "10.0.0.0-26": want <address>-<length>.<page>, such as 10.65.1.0-26.0`)},
		{"IPAMHistory", "10.0.0.0-26.1", `"first":16,"releases":[{"address":"x","released":null},{"address":"10.0.0.64","released":null}]`, bad(
			`spec.releases[0].address: "x": want an IP address such as 10.0.0.1`,
			`spec.releases[1].address: "10.0.0.64": is not in 10.0.0.0/26`)},
		{"BGPFilter", "f", `"exportV4":[{"cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":8,"max":32},"action":"Accept"},{"action":"Reject"}],"importV6":[{"cidr":"fd00::/8","matchOperator":"Equal","action":"Reject"}]`, nil},
		{"BGPFilter", "f", `"exportV4":[{"cidr":"fd00::/8","matchOperator":"Is","action":"Drop","source":"Local","interface":"a b","prefixLength":{"min":33,"max":9}}]`, bad(
			`spec.exportV4[0].action: "Drop": want one of Accept, Reject`,
			`spec.exportV4[0].cidr: "fd00::/8": want an IPv4 CIDR`,
			`spec.exportV4[0].interface: "a b": want the name of a network device, '*' for any characters`,
			`spec.exportV4[0].matchOperator: "Is": want one of Equal, NotEqual, In, NotIn`,
			`spec.exportV4[0].prefixLength.min: 33: want 0 to 32`,
			`spec.exportV4[0].prefixLength.min: 33: is more than max, 9`,
			`spec.exportV4[0].source: "Local": want one of RemotePeers`)},
		{"BGPFilter", "f", `"importV4":[{"peerType":"eBGP","communities":{"values":["65000:1"]},"asPathPrefix":[65001,"1.1"],"priority":512,"action":"Accept","operations":[{"addCommunity":{"value":"1:2:3"}},{"prependASPath":{"prefix":[65001]}},{"setPriority":{"value":1024}}]}]`, nil},
		{"BGPFilter", "f", `"importV4":[{"peerType":"any","communities":{"values":["65536:1","x"]},"asPathPrefix":[0],"priority":0,"action":"Reject","operations":[{}]},{"cidr":"10.0.0.0/8","matchOperator":"Equal","prefixLength":{"max":7},"action":"Accept","operations":[{"addCommunity":{"value":"1"},"setPriority":{"value":2147483647}},{"prependASPath":{"prefix":[]}}]}]`, bad(
			`spec.importV4[0].asPathPrefix[0]: 0: want 1 to 4294967295`,
			`spec.importV4[0].communities.values: want just one community`,
			`spec.importV4[0].communities.values[0]: "65536:1": want a community aa:nn (16 bits each) or aa:nn:mm (32 bits each)`,
			`spec.importV4[0].communities.values[1]: "x": want a community aa:nn (16 bits each) or aa:nn:mm (32 bits each)`,
			`spec.importV4[0].operations: can't be combined with action Reject: a rejected route is not changed`,
			`spec.importV4[0].operations[0]: want just one of addCommunity, prependASPath, setPriority`,
			`spec.importV4[0].peerType: "any": want one of eBGP, iBGP`,
			`spec.importV4[0].priority: 0: want 1 to 2147483646`,
			`spec.importV4[1].operations[0]: want just one of addCommunity, prependASPath, setPriority`,
			`spec.importV4[1].operations[0].addCommunity.value: "1": want a community aa:nn (16 bits each) or aa:nn:mm (32 bits each)`,
			`spec.importV4[1].operations[0].setPriority.value: 2147483647: want 1 to 2147483646`,
			`spec.importV4[1].operations[1].prependASPath.prefix: has 0 AS numbers, want 1 to 10`,
			`spec.importV4[1].prefixLength: says nothing with matchOperator Equal, which looks at the one prefix cidr; want In or NotIn`,
			`spec.importV4[1].prefixLength.max: 7: no prefix in cidr is that short, want at least 8`)},
		{"BGPFilter", "f", `"importV6":[{"cidr":"fd00::/8","action":"Accept"},{"matchOperator":"In","prefixLength":{},"action":""}]`, bad(
			`spec.importV6[0].matchOperator: is required with cidr, want one of Equal, NotEqual, In, NotIn`,
			`spec.importV6[1].action: is missing, want Accept or Reject`,
			`spec.importV6[1].cidr: is required with matchOperator`,
			`spec.importV6[1].prefixLength: needs cidr`)},
	})
}

func TestParsePeerIP(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1 0", "192.0.2.1:1790": "192.0.2.1 1790", "fd00::1": "fd00::1 0", "[fd00::1]:179": "fd00::1 179",
		"fd10::fe:179": "fd10::fe:179 0", // upstream reads this as an address, too
	} {
		addr, port, err := api.ParsePeerIP(text)
		if got := fmt.Sprint(addr, port); err != nil || got != want {
			t.Errorf("ParsePeerIP(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
}
