package cniserver

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/control/cniwire"
)

// TestPlainResultIsTheLibrarys compares, byte for byte.
func TestPlainResultIsTheLibrarys(t *testing.T) {
	for name, tc := range map[string]struct {
		addrs []string
		conf  netconf.Conf
		plain bool
	}{
		"IPv4":          {[]string{"10.65.0.1"}, netconf.Conf{CNIVersion: "1.1.0"}, true},
		"dual stack":    {[]string{"10.65.0.1", "fd65::1"}, netconf.Conf{CNIVersion: "1.1.0"}, true},
		"IPv6 first":    {[]string{"fd65::1", "10.65.0.1"}, netconf.Conf{CNIVersion: "1.1.0"}, true},
		"several":       {[]string{"10.65.0.1", "10.65.0.2", "fd65::1", "fd65::2"}, netconf.Conf{CNIVersion: "1.1.0"}, true},
		"older version": {[]string{"10.65.0.1"}, netconf.Conf{CNIVersion: "1.0.0"}, false},
		"in a chain":    {[]string{"10.65.0.1"}, netconf.Conf{CNIVersion: "1.1.0", PrevResult: &types100.Result{}}, false},
		"with DNS":      {[]string{"10.65.0.1"}, netconf.Conf{CNIVersion: "1.1.0", DNS: types.DNS{Domain: "cluster.local"}}, false},
		"no address":    {nil, netconf.Conf{CNIVersion: "1.1.0"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &addition{
				call: call{plugin: pluginCalico, conf: tc.conf},
				entry: journal.Entry{
					ID: journal.ID{Network: "net1", ContainerID: "c1", IfName: "eth0"}, HostIf: "cali0123456789a",
					Netns: "/run/netns/a", MAC: "02:00:00:00:00:01", MTU: 1450,
				},
			}
			for _, s := range tc.addrs {
				a.entry.Addrs = append(a.entry.Addrs, netip.MustParseAddr(s))
			}
			got, plain := a.plainResult()
			if plain != tc.plain {
				t.Fatalf("plain: %v, want %v", plain, tc.plain)
			}
			if !plain {
				return
			}
			r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
			a.addPodResult(r)
			want, err := json.Marshal(r)
			if err != nil || string(got) != string(want) {
				t.Errorf("got  %s\nwant %s, %v", got, want, err)
			}
		})
	}
}

// asked is an ADD with more in its configuration.
func asked(version, more string) cniwire.Request {
	r := request("ADD", "c1")
	r.Config = json.RawMessage(fmt.Sprintf(`{"cniVersion": %q, "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}%s}`, version, more))
	return r
}

// newest reads a result.
func newest(t *testing.T, v string, raw []byte) *types100.Result {
	t.Helper()
	result, err := version.NewResult(v, raw)
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestResultOfEarlierPluginsIsPassedOnWithOursBehindIt: the specification wants it of every
// plugin of a chain. Who comes next finds our interface by the index of its address.
func TestResultOfEarlierPluginsIsPassedOnWithOursBehindIt(t *testing.T) {
	const before = `{"cniVersion": %q, "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/c1"}, {"name": "br0", "mac": "02:00:00:00:00:07"}],
		"ips": [{%s"interface": 0, "address": "127.0.0.1/8"}, {%[2]s"address": "192.0.2.7/24", "gateway": "192.0.2.1"}],
		"routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
		"dns": {"nameservers": ["192.0.2.53"], "domain": "first.example", "search": ["first.example"]}}`
	for _, v := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, inWorld(func(t *testing.T, w *world) {
			ip := ""
			if v < "1.0.0" {
				ip = `"version": "4", `
			}
			prev := fmt.Sprintf(before, v, ip)
			add := asked(v, `, "dns": {"nameservers": ["192.0.2.53", "10.0.0.10"], "domain": "cluster.local", "search": ["cluster.local"]}, "prevResult": `+prev)
			raw := w.ok(add)
			alone, got := newest(t, v, w.ok(asked(v, ""))), newest(t, v, raw)
			was := newest(t, v, []byte(prev))
			if diff := cmp.Diff(append(was.Interfaces, alone.Interfaces...), got.Interfaces); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(append(was.Routes, alone.Routes...), got.Routes); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			for _, ip := range alone.IPs {
				*ip.Interface += len(was.Interfaces)
			}
			if diff := cmp.Diff(append(was.IPs, alone.IPs...), got.IPs); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if of := got.Interfaces[*got.IPs[len(got.IPs)-1].Interface]; of.Name != "eth0" || of.Sandbox != add.Netns {
				t.Errorf("our address is of interface %+v", of)
			}
			dns := types.DNS{
				Nameservers: []string{"192.0.2.53", "10.0.0.10"}, Domain: "first.example", Search: []string{"first.example", "cluster.local"},
			}
			if diff := cmp.Diff(dns, got.DNS); diff != "" {
				t.Errorf("DNS (-want +got):\n%s", diff)
			}
			if again := w.ok(add); string(again) != string(raw) {
				t.Errorf("a repeated ADD answers\n%s, before\n%s", again, raw)
			}
			// With what it answered before instead, nothing of ours is there twice.
			if again := w.ok(asked(v, `, "prevResult": `+string(raw))); string(again) != string(raw) {
				t.Errorf("with its own result before it, ADD answers\n%s, want\n%s", again, raw)
			}
		}))
	}
}

// TestResultOfEarlierPluginsIsNotTheIPAMPlugins: the main plugin that runs it hands it on,
// and would give its own interface all that comes back. Before 0.3.0 there are no chains.
func TestResultOfEarlierPluginsIsNotTheIPAMPlugins(t *testing.T) {
	for _, tc := range []struct{ plugin, version, before string }{
		{"calico-ipam", "1.1.0", `"interfaces": [{"name": "lo"}], "ips": [{"interface": 0, "address": "127.0.0.1/8"}]`},
		{"calico", "0.2.0", `"ip4": {"ip": "127.0.0.1/8"}`},
	} {
		t.Run(tc.plugin+" "+tc.version, inWorld(func(t *testing.T, w *world) {
			r := asked(tc.version, fmt.Sprintf(`, "prevResult": {"cniVersion": %q, %s}`, tc.version, tc.before))
			r.Plugin = tc.plugin
			got := newest(t, tc.version, w.ok(r))
			if len(got.IPs) != 1 || !got.IPs[0].Address.IP.Equal(net.IPv4(10, 65, 0, 1)) || len(got.Interfaces) != 0 {
				t.Errorf("result %v", got)
			}
		}))
	}
}
