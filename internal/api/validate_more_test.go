package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"tortie/internal/api"
)

func TestValidateRules(t *testing.T) {
	const protocols = `want TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255`
	var tests []validation
	rule := func(rule string, want ...string) {
		tests = append(tests, validation{"GlobalNetworkPolicy", "p", `"ingress":[` + rule + `]`, want})
	}
	rule(`{"action":"Allow"}`)
	rule(`{"action":"Log","protocol":"TCP","source":{"nets":["10.0.0.0/8","10.1.2.3","10.0.0.1/8"]},"destination":{"ports":[80,"8080:8090","http"]}}`)
	rule(`{"action":"Pass","protocol":"ICMP","icmp":{"type":8,"code":0},"ipVersion":4}`)
	rule(`{"action":"Pass","protocol":58,"notICMP":{"type":128}}`)
	rule(`{"action":"Deny","protocol":132,"notProtocol":"UDPLite","source":{"notPorts":[1]}}`)
	rule(`{"action":"Allow","source":{"selector":"a == 'b'","namespaceSelector":"global()","notSelector":"has(c)","serviceAccounts":{"names":["sa"],"selector":"has(x)"}}}`)
	rule(`{"action":"Allow","http":{"methods":["GET"],"paths":[{"exact":"/x"},{"prefix":"/y"}]}}`)
	rule(`{}`, `spec.ingress[0].action: is missing, want one of Allow, Deny, Log, Pass`)
	rule(`{"action":"allow"}`, `spec.ingress[0].action: "allow": want one of Allow, Deny, Log, Pass`)
	rule(`{"action":"Allow"},{"action":"Allow","ipVersion":5}`, `spec.ingress[1].ipVersion: 5: want 4 or 6`)
	rule(`{"action":"Allow","protocol":"tcp"}`, `spec.ingress[0].protocol: "tcp": `+protocols)
	rule(`{"action":"Allow","protocol":0}`, `spec.ingress[0].protocol: "0": `+protocols)
	rule(`{"action":"Allow","notProtocol":"HTTP"}`, `spec.ingress[0].notProtocol: "HTTP": `+protocols)
	rule(`{"action":"Allow","destination":{"ports":[80]}}`, `spec.ingress[0].destination.ports: ports need a protocol that has them: set spec.ingress[0].protocol to TCP, UDP or SCTP`)
	rule(`{"action":"Allow","protocol":"ICMP","source":{"notPorts":[80]}}`, `spec.ingress[0].source.notPorts: ports need a protocol that has them: set spec.ingress[0].protocol to TCP, UDP or SCTP`)
	rule(`{"action":"Allow","protocol":"TCP","destination":{"ports":[0,"0:3"]}}`,
		`spec.ingress[0].destination.ports[0]: "0": want a port from 1 to 65535, a range such as 8080:8090 or the name of a port`,
		`spec.ingress[0].destination.ports[1]: "0:3": want a port from 1 to 65535, a range such as 8080:8090 or the name of a port`)
	rule(`{"action":"Allow","icmp":{"type":8}}`, `spec.ingress[0].icmp: needs protocol ICMP or ICMPv6`)
	rule(`{"action":"Allow","protocol":"ICMP","icmp":{"type":255,"code":256}}`, `spec.ingress[0].icmp.type: 255: want 0 to 254`, `spec.ingress[0].icmp.code: 256: want 0 to 255`)
	rule(`{"action":"Allow","protocol":"ICMP","notICMP":{"code":1}}`, `spec.ingress[0].notICMP.type: is required with code, want 0 to 254`)
	rule(`{"action":"Allow","protocol":"ICMP","ipVersion":6}`, `spec.ingress[0].protocol: is for IPv4, but ipVersion binds the rule to IPv6; make two rules`)
	rule(`{"action":"Allow","source":{"nets":["10.0.0.0/8"]},"destination":{"notNets":["fd00::/8"]}}`,
		`spec.ingress[0].destination.notNets[0]: is for IPv6, but spec.ingress[0].source.nets[0] binds the rule to IPv4; make two rules`)
	rule(`{"action":"Allow","source":{"nets":["10.0.0"]}}`, `spec.ingress[0].source.nets[0]: "10.0.0": want a CIDR or address such as 10.65.0.0/16`)
	rule(`{"action":"Allow","source":{"selector":"a =="}}`, `spec.ingress[0].source.selector: "a ==": column 5: want a string in quotes, got the end`)
	rule(`{"action":"Allow","source":{"notSelector":"global()"}}`, `spec.ingress[0].source.notSelector: "global()": global() is only allowed in the namespaceSelector of a rule`)
	rule(`{"action":"Allow","source":{"namespaceSelector":"global() || has(a)"}}`, `spec.ingress[0].source.namespaceSelector: "global() || has(a)": global() must stand alone`)
	rule(`{"action":"Allow","source":{"services":{"name":"s"}}}`)
	rule(`{"action":"Allow","destination":{"services":{"name":"s"}}}`, `spec.ingress[0].destination.services: is only allowed in the source of ingress and the destination of egress rules`)
	rule(`{"action":"Allow","source":{"services":{"namespace":"n"},"selector":"has(a)"}}`, `spec.ingress[0].source.services.name: is missing`,
		`spec.ingress[0].source.services: can't be combined with nets, notNets, selector, notSelector, namespaceSelector or serviceAccounts`)
	rule(`{"action":"Allow","source":{"serviceAccounts":{"names":["S A"]}}}`, `spec.ingress[0].source.serviceAccounts.names[0]: "S A": want lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part`)
	rule(`{"action":"Allow","protocol":"UDP","http":{"methods":["GET","GET"],"paths":[{},{"exact":"/a","prefix":"/b"},{"exact":"a"},{"prefix":"/a?b"}]}}`,
		`spec.ingress[0].http: needs protocol TCP, or none`, `spec.ingress[0].http.methods[1]: "GET": is given twice`,
		`spec.ingress[0].http.paths[0]: want either exact or prefix`, `spec.ingress[0].http.paths[1]: want either exact or prefix`,
		`spec.ingress[0].http.paths[2]: "a": a path starts with a slash`, `spec.ingress[0].http.paths[3]: "/a?b": a path has no query and no fragment`)
	checkValidations(t, tests)
}

func TestValidatePolicies(t *testing.T) {
	checkValidations(t, []validation{
		{"GlobalNetworkPolicy", "p", `"egress":[{"action":"Allow","protocol":"TCP","destination":{"services":{"name":"s"},"ports":[80]}}]`, bad(
			`spec.egress[0].destination.services: can't be combined with ports or notPorts: the ports are the service's`)},
		{"GlobalNetworkPolicy", "p", `"doNotTrack":true,"applyOnForward":true`, nil},
		{"GlobalNetworkPolicy", "p", `"doNotTrack":true,"preDNAT":true,"egress":[{"action":"Allow"}]`, bad(
			`spec.preDNAT: can't be combined with doNotTrack`, `spec.applyOnForward: must be true with doNotTrack or preDNAT`,
			`spec.egress: a preDNAT policy has no egress rules`, `spec.types: a preDNAT policy has no type Egress`)},
		{"NetworkPolicy", "p", `"tier":"T","selector":"x","serviceAccountSelector":"y","types":["In","Ingress","Ingress"],"performanceHints":["Fast"]`, bad(
			`spec.tier: "T": want lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part`,
			`spec.selector: "x": column 2: want ==, !=, in, not in, contains, starts with or ends with, got the end`,
			`spec.serviceAccountSelector: "y": column 2: want ==, !=, in, not in, contains, starts with or ends with, got the end`,
			`spec.types[0]: "In": want one of Ingress, Egress`, `spec.types[2]: Ingress: is given twice`,
			`spec.performanceHints[0]: "Fast": want one of AssumeNeededOnEveryNode`)},
		{"StagedGlobalNetworkPolicy", "p", `"stagedAction":"Apply","namespaceSelector":"z"`, bad(
			`spec.stagedAction: "Apply": want one of Set, Delete, Learn, Ignore`,
			`spec.namespaceSelector: "z": column 2: want ==, !=, in, not in, contains, starts with or ends with, got the end`)},
		{"StagedNetworkPolicy", "p", `"stagedAction":"Delete"`, nil},
		{"StagedKubernetesNetworkPolicy", "p", `"podSelector":{"matchExpressions":[{"key":"a","operator":"Is"}]},"policyTypes":["Both"],"ingress":[{"from":[{"ipBlock":{"cidr":"x","except":["10.0.0.0/30"]},"podSelector":{}}]}]`, bad(
			`spec.podSelector: "Is" is not a valid label selector operator`, `spec.policyTypes[0]: "Both": want one of Ingress, Egress`,
			`spec.ingress[0].from[0].ipBlock.cidr: "x": want a CIDR or address such as 10.65.0.0/16`,
			`spec.ingress[0].from[0].ipBlock: can't be combined with podSelector or namespaceSelector`)},
		{"Profile", "p", `"egress":[{"action":"No"}],"labelsToApply":{"net1":"","a":"b c"}`, bad(
			`spec.egress[0].action: "No": want one of Allow, Deny, Log, Pass`,
			`spec.labelsToApply[a]: "b c": want at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends`)},
		{"GlobalNetworkSet", "s", `"nets":["10.0.0.0/8","fd00::1","x"]`, bad(`spec.nets[2]: "x": want a CIDR or address such as 10.65.0.0/16`)},
		{"NetworkSet", "s", `"nets":["1.2.3.4/40"]`, bad(`spec.nets[0]: "1.2.3.4/40": want a CIDR or address such as 10.65.0.0/16`)},
	})
}

func TestValidateEndpointsAndNodes(t *testing.T) {
	const k8s = `"orchestrator":"k8s","node":"n1","pod":"my-pod","endpoint":"eth0"`
	checkValidations(t, []validation{
		{"HostEndpoint", "h", `"node":"n1","interfaceName":"*"`, nil},
		{"HostEndpoint", "h", `"node":"n1","expectedIPs":["10.0.0.1","fd00::1"]`, nil},
		{"HostEndpoint", "h", ``, bad(`spec.node: is missing`, `spec.interfaceName: is missing: want the name of a network device or * for all, or else spec.expectedIPs`)},
		{"HostEndpoint", "h", `"node":"n1","interfaceName":"a-very-long-name","expectedIPs":["10.0.0.1/24"],"ports":[{"name":"","protocol":"ICMP","port":0}]`, bad(
			`spec.interfaceName: "a-very-long-name": want the name of a network device: at most 15 characters, no slash, colon or space`,
			`spec.expectedIPs[0]: "10.0.0.1/24": want an IP address such as 10.0.0.1`,
			`spec.ports[0].name: "": want 1 to 128 letters, digits, '-', '_' and '.'`,
			`spec.ports[0].protocol: "ICMP": has no ports, want TCP, UDP or SCTP`, `spec.ports[0].port: 0: want 1 to 65535`)},
		{"Node", "n", `"bgp":{"ipv4Address":"10.0.0.1/24","ipv6Address":"fd00::1","asNumber":64512}`, nil},
		{"Node", "n", `"bgp":{}`, bad(`spec.bgp: says no address: set ipv4Address or ipv6Address with the prefix length of its subnet, such as 10.10.0.1/24`)},
		{"Node", "n", `"bgp":{"ipv4Address":"fd00::1/64","ipv6Address":"ff02::1","asNumber":0,"routeReflectorClusterID":"1","ipv4IPIPTunnelAddr":"x"}`, bad(
			`spec.bgp.asNumber: 0: want 1 to 4294967295`, `spec.bgp.ipv4Address: "fd00::1/64": want an IPv4 CIDR`,
			`spec.bgp.ipv6Address: "ff02::1": is not the address of a node`,
			`spec.bgp.ipv4IPIPTunnelAddr: "x": want an IPv4 address such as 10.0.0.1`, `spec.bgp.routeReflectorClusterID: "1": want an IPv4 address such as 10.0.0.1`)},
		{"Node", "n", `"vxlanTunnelMACAddr":"66:aa:bb:cc:dd","ipv6VXLANTunnelAddr":"10.0.0.1","orchRefs":[{}],"addresses":[{"address":"?","type":"Any"}],"interfaces":[{"name":"a/b","addresses":["x"]}],"wireguard":{"interfaceIPv4Address":"fd00::1"}`, bad(
			`spec.ipv6VXLANTunnelAddr: "10.0.0.1": want an IPv6 address`, `spec.vxlanTunnelMACAddr: "66:aa:bb:cc:dd": want an Ethernet address such as 0a:34:c9:aa:41:70`,
			`spec.orchRefs[0].orchestrator: is missing, want for example k8s`, `spec.wireguard.interfaceIPv4Address: "fd00::1": want an IPv4 address`,
			`spec.addresses[0].address: "?": want a CIDR or address such as 10.65.0.0/16`, `spec.addresses[0].type: "Any": want one of CalicoNodeIP, InternalIP, ExternalIP`,
			`spec.interfaces[0].name: "a/b": want the name of a network device: at most 15 characters, no slash, colon or space`,
			`spec.interfaces[0].addresses[0]: "x": want a CIDR or address such as 10.65.0.0/16`)},
		{"WorkloadEndpoint", "n1-k8s-my--pod-eth0", k8s + `,"ipNetworks":["10.0.0.1/32","fd00::1/128","10.0.0.2"],"mac":"0A:34:c9:aa:41:70"`, nil},
		{"WorkloadEndpoint", "n1-cni-Cont_1-eth0.100", `"orchestrator":"cni","node":"n1","containerID":"Cont_1","endpoint":"eth0.100"`, nil},
		{"WorkloadEndpoint", "n1-k8s-my-pod-eth0", k8s, bad(`metadata.name: "n1-k8s-my-pod-eth0": does not fit the spec, want n1-k8s-my--pod-eth0`)},
		{"WorkloadEndpoint", "a/b", `"orchestrator":"k8s","node":"n1","endpoint":"eth0"`, bad(
			`metadata.name: "a/b": want at most 253 letters, digits, '-', '_' and '.': <node>-<orchestrator>-<workload>-<endpoint>`, `spec: workload endpoint name: pod is missing`)},
		{"WorkloadEndpoint", "n1-k8s-my--pod-eth0", k8s + `,"ipNetworks":["10.0.0.0/24"],"mac":"x","ipNATs":[{"internalIP":"10.0.0.9","externalIP":"fd00::1"}],"ipv4Gateway":"g","qosControls":{"dscp":64},"ports":[{"name":"http","protocol":"TCP","port":80},{"name":"","protocol":"TCP","port":81}]`, bad(
			`spec.ipNetworks[0]: "10.0.0.0/24": want one address: a length of /32 for IPv4, /128 for IPv6`,
			`spec.ipNATs[0].externalIP: "fd00::1": is not of the same IP family as 10.0.0.9`, `spec.ipNATs[0].internalIP: "10.0.0.9": is not among spec.ipNetworks`,
			`spec.ipv4Gateway: "g": want an IPv4 address such as 10.0.0.1`, `spec.mac: "x": want an Ethernet address such as 0a:34:c9:aa:41:70`,
			`spec.ports[1].name: "": want 1 to 128 letters, digits, '-', '_' and '.'`, `spec.qosControls.dscp: 64: want 0 to 63, or a name such as EF or AF11`)},
		{"CalicoNodeStatus", "s", `"node":"n1","classes":["BGP"],"updatePeriodSeconds":10`, nil},
		{"CalicoNodeStatus", "s", `"classes":["BFD","BGP","BGP"],"updatePeriodSeconds":90000`, bad(`spec.node: is missing`, `spec.classes[0]: "BFD": want one of Agent, BGP, Routes`,
			`spec.classes[2]: BGP: is given twice`, `spec.updatePeriodSeconds: 90000: want 0 to 86400`)},
		{"CalicoNodeStatus", "s", `"node":"n1"`, bad(`spec.classes: is missing, want any of Agent, BGP, Routes`, `spec.updatePeriodSeconds: is missing, want 0 to 86400 seconds`)},
	})
}

func TestValidateConfigurations(t *testing.T) {
	checkValidations(t, []validation{
		{"FelixConfiguration", "default", `"nftablesMode":"Enabled","bpfLogLevel":"","logSeverityScreen":"Info","vxlanPort":4789,"routeTableRanges":[{"min":1,"max":200}],"featureDetectOverride":"SNATFullyRandom=true,X="`, nil},
		{"FelixConfiguration", "default", `"nftablesMode":"On"`, bad(`spec.nftablesMode: "On": want one of Enabled, Disabled, Auto`)},
		{"FelixConfiguration", "default", `"routeRefreshInterval":"-1s","defaultEndpointToHostAction":"Reject","logSeveritySys":"Loud"`, bad(
			`spec.routeRefreshInterval: -1s: must not be negative`, `spec.defaultEndpointToHostAction: "Reject": want one of Drop, Accept, Return`,
			`spec.logSeveritySys: "Loud": want one of Trace, Debug, Info, Warning, Error, Fatal`)},
		{"FelixConfiguration", "default", `"vxlanVNI":16777216,"healthPort":-1,"mtuIfacePattern":"(","natOutgoingAddress":"fd00::1","wireguardInterfaceName":"a b","featureGates":"x"`, bad(
			`spec.featureGates: "x": want pairs such as SNATFullyRandom=true, separated by commas`, `spec.vxlanVNI: 16777216: want 1 to 16777215`, `spec.healthPort: -1: want 0 to 65535`,
			`spec.natOutgoingAddress: "fd00::1": is no IPv4 address`, `spec.wireguardInterfaceName: "a b": is no name of a device; want 1 to 15 letters, digits or . _ + -`,
			"spec.mtuIfacePattern: \"(\": missing closing ): `(`")},
		{"FelixConfiguration", "default", `"failsafeInboundHostPorts":[{"protocol":"icmp","port":22,"net":"x"}],"kubeNodePortRanges":["a",0],"externalNodesList":["y"],"healthTimeoutOverrides":[{"name":"","timeout":"-1s"}],"bpfConntrackTimeouts":{"tcpSynSent":"soon"}`, bad(
			`spec.healthTimeoutOverrides[0].name: is missing`, `spec.healthTimeoutOverrides[0].timeout: -1s: must not be negative`,
			`spec.failsafeInboundHostPorts[0].protocol: "icmp": want one of tcp, udp, sctp`, `spec.failsafeInboundHostPorts[0].net: "x": want a CIDR or address such as 10.65.0.0/16`,
			`spec.kubeNodePortRanges[0]: "a": want a port from 1 to 65535 or a range such as 30000:32767`,
			`spec.kubeNodePortRanges[1]: "0": want a port from 1 to 65535, a range such as 8080:8090 or the name of a port`,
			`spec.externalNodesList[0]: "y": want a CIDR or address such as 10.65.0.0/16`, `spec.bpfConntrackTimeouts.tcpSynSent: "soon": want a duration such as 60s, or Auto`)},
		{"FelixConfiguration", "default", `"routeTableRanges":[{"min":9,"max":3},{"min":0,"max":3}],"routeTableRange":{"min":1,"max":300}`, bad(
			`spec.routeTableRanges[0]: min 9 is more than max 3`, `spec.routeTableRanges[1]: min 0, max 3: want routing tables from 1 to 4294967295`,
			`spec.routeTableRange: min 1, max 300: want routing tables from 1 to 250`, `spec.routeTableRange: can't be combined with routeTableRanges; leave it out`)},
		{"KubeControllersConfiguration", "default", `"controllers":{"node":{"hostEndpoint":{"autoCreate":"Enabled","templates":[{"generateName":"x","interfaceSelector":"eth.*"}]},"leakGracePeriod":"0s"}}`, nil},
		{"KubeControllersConfiguration", "default", `"healthChecks":"on","prometheusMetricsPort":70000,"etcdV3CompactionPeriod":"-1m","controllers":{"policy":{"reconcilerPeriod":"-1s"},"loadBalancer":{"assignIPs":"Some"},"node":{"syncLabels":"x","hostEndpoint":{"templates":[{}]}}}`, bad(
			`spec.healthChecks: "on": want one of Enabled, Disabled`, `spec.etcdV3CompactionPeriod: -1m0s: must not be negative`, `spec.prometheusMetricsPort: 70000: want 0 to 65535`,
			`spec.controllers.policy.reconcilerPeriod: -1s: must not be negative`, `spec.controllers.loadBalancer.assignIPs: "Some": want one of AllServices, RequestedServicesOnly`,
			`spec.controllers.node.syncLabels: "x": want one of Enabled, Disabled`, `spec.controllers.node.hostEndpoint.templates[0]: want interfaceCIDRs or interfaceSelector`)},
	})
}

// TestFelixRulesNameRealFields: a rule for a field that doesn't exist would never
// be applied.
func TestFelixRulesNameRealFields(t *testing.T) {
	reg := api.NewRegistry()
	fields := map[string]bool{}
	spec := reflect.TypeFor[v3.FelixConfigurationSpec]()
	for field := range spec.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		fields[name] = true
	}
	for _, name := range api.FelixRuleNames() {
		if !fields[name] {
			t.Errorf("there is no field %q", name)
		}
	}
	// And each is applied: a wrong value of any word field is refused.
	for field := range spec.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !strings.Contains(field.Tag.Get("validate"), "oneof=") {
			continue
		}
		text, err := json.Marshal("Nonsense")
		if err != nil {
			t.Fatal(err)
		}
		obj, err := reg.DecodeStrict([]byte(doc("FelixConfiguration", `"metadata":{"name":"default"},"spec":{"`+name+`":`+string(text)+`}`)))
		if err != nil {
			t.Fatal(err)
		}
		if err := reg.Validate(obj); err == nil || !strings.Contains(err.Error(), "spec."+name) {
			t.Errorf("%s: Nonsense: %v", name, err)
		}
	}
}

func TestValidateIPAM(t *testing.T) {
	const quad = `"cidr":"10.0.0.0/30","affinity":"host:n1","sequenceNumberForAllocation":{"0":1},`
	checkValidations(t, []validation{
		{"IPAMBlock", "10.0.0.0/30", quad + `"allocations":[0,null,0,1],"unallocated":[1],"attributes":[{"handle_id":"a"},{"handle_id":"b"}]`, nil},
		{"IPAMBlock", "10.0.0.0/30", quad + `"allocations":[null,null],"unallocated":[0,1],"attributes":[]`, bad(`spec.allocations: 2: entries, want 4, one for each address of 10.0.0.0/30`)},
		{"IPAMBlock", "10.0.0.0/30", quad + `"allocations":[1,null,0,null],"unallocated":[2,4,1,1],"attributes":[{"handle_id":"a"}]`, bad(
			`spec.unallocated[0]: 2: is allocated as well`, `spec.unallocated[1]: 4: want an ordinal from 0 to 3`, `spec.unallocated[3]: 1: is given twice`,
			`spec.allocations[0]: 1: is not an index into spec.attributes, which has 1 entries`, `spec.allocations[3]: is neither allocated nor in spec.unallocated`)},
		{"IPAMBlock", "10.0.0.0/30", quad + `"allocations":[null,null,null,null],"unallocated":[3,2,1,0],"attributes":[{"handle_id":"a"}]`, bad(`spec.attributes[0]: belongs to no address`)},
		{"IPAMBlock", "10.0.0.4/30", `"cidr":"10.0.0.0/30","affinity":"n1","sequenceNumberForAllocation":{"4":1},"allocations":[null,null,null,null],"unallocated":[3,2,1,0],"attributes":[]`, bad(
			`metadata.name: "10.0.0.4/30": does not fit spec.cidr, want 10.0.0.0/30`, `spec.affinity: "n1": want host:<node> or virtual:<name>`, `spec.sequenceNumberForAllocation: "4": want an ordinal from 0 to 3`)},
		{"IPAMBlock", "fd00::/64", `"cidr":"fd00::/64"`, bad(`spec.cidr: "fd00::/64": is larger than 4096 addresses`)},
		{"IPAMBlock", "x", `"cidr":"10.0.0.1/30"`, bad(`spec.cidr: "10.0.0.1/30": has host bits; did you mean 10.0.0.0/30?`)},
		{"BlockAffinity", "host:n1/10.0.0.0/26", `"state":"confirmed","type":"host","node":"n1","cidr":"10.0.0.0/26"`, nil},
		{"BlockAffinity", "host:n2/10.0.0.0/26", `"state":"sure","type":"host","node":"n1","cidr":"10.0.0.0/26"`, bad(
			`spec.state: "sure": want one of pending, confirmed, pendingDeletion`, `metadata.name: "host:n2/10.0.0.0/26": does not fit the spec, want host:n1/10.0.0.0/26`)},
		{"IPAMHandle", "h", `"block":{"10.0.0.0/26":1}`, nil},
		{"IPAMHandle", "h", `"handleID":"i","block":{"10.0.0.0/26":0,"x":1}`, bad(`metadata.name: "h": does not fit spec.handleID, i`,
			`spec.block[10.0.0.0/26]: 0: want the number of addresses held, at least 1`, `spec.block[x]: "x": want a CIDR such as 10.65.0.0/16`)},
		{"IPAMConfig", "default", `"maxBlocksPerHost":-1,"kubeVirtVMAddressPersistence":"Yes"`, bad(`spec.maxBlocksPerHost: -1: want 0 (for the default, 20) or more`,
			`spec.kubeVirtVMAddressPersistence: "Yes": want one of Enabled, Disabled`)},
	})
}
