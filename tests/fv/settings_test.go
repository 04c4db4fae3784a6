package fv

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tortie/internal/api"
	"tortie/tests/lab"
	"tortie/tests/lab/agentwire"
)

// rawStore writes what calicoctl would refuse, by etcd's own gateway.
type rawStore struct {
	*testing.T
	url    string
	client http.Client
	reg    *api.Registry
}

func newRawStore(t *testing.T, l *lab.Lab) *rawStore {
	t.Helper()
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = l.In("node1", func() error {
			conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return &rawStore{T: t, url: l.EtcdEndpoint(), client: http.Client{Transport: &http.Transport{DialContext: dial}}, reg: api.NewRegistry()}
}

func (s *rawStore) call(what string, in map[string]string, out any) {
	s.Helper()
	for k, v := range in {
		in[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	body, err := json.Marshal(in)
	if err != nil {
		s.Fatal(err)
	}
	answer, err := s.client.Post(s.url+"/v3/kv/"+what, "application/json", bytes.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		s.Fatalf("%s: %s", what, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(out); err != nil {
		s.Fatal(err)
	}
}

func (s *rawStore) path(kind api.Kind, name string) string {
	s.Helper()
	path, err := s.reg.Path(api.Key{Kind: kind, Name: name})
	if err != nil {
		s.Fatal(err)
	}
	return path
}

// change writes an object with one text of it replaced; under another name where as is
// not empty. It returns how to undo that.
func (s *rawStore) change(kind api.Kind, name, as, text, with string) (undo func()) {
	s.Helper()
	before := s.value(kind, name)
	after := strings.ReplaceAll(before, text, with)
	if after == before {
		s.Fatalf("%s %s has no %q: %s", kind, name, text, before)
	}
	if as != "" {
		s.put(kind, as, after)
		return func() { s.Helper(); s.remove(kind, as) }
	}
	s.put(kind, name, after)
	return func() { s.Helper(); s.put(kind, name, before) }
}

func (s *rawStore) value(kind api.Kind, name string) string {
	s.Helper()
	var found struct{ KVs []struct{ Value []byte } }
	s.call("range", map[string]string{"key": s.path(kind, name)}, &found)
	if len(found.KVs) != 1 {
		s.Fatalf("%s %s is not in etcd", kind, name)
	}
	return string(found.KVs[0].Value)
}

func (s *rawStore) put(kind api.Kind, name, value string) {
	s.Helper()
	s.call("put", map[string]string{"key": s.path(kind, name), "value": value}, &struct{}{})
}

func (s *rawStore) remove(kind api.Kind, name string) {
	s.Helper()
	s.call("deleterange", map[string]string{"key": s.path(kind, name)}, &struct{}{})
}

// statusSays waits until node1's status says, or does not say, something.
func statusSays(t *testing.T, l *lab.Lab, line string, want bool) {
	t.Helper()
	statusOfSays(t, l, "node1", line, want)
}

func statusOfSays(t *testing.T, l *lab.Lab, node, line string, want bool) {
	t.Helper()
	var out bytes.Buffer
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		out.Reset()
		err := l.Exec(node, []string{"calicoctl", "node", "status"}, lab.Stdio{Out: &out, Err: &out})
		if strings.Contains(out.String(), line) == want && (err == nil || want) { // it fails while felix starts
			return
		}
	}
	t.Fatalf("after a minute calicoctl node status says %q on %s: %v\n%s", line, node, !want, &out)
}

// TestWrongSettingsAreSaidInOneLineAndNothingStopsWorking: somebody has written past
// calicoctl what it refuses, or chosen what this node can't do.
func TestWrongSettingsAreSaidInOneLineAndNothingStopsWorking(t *testing.T) {
	const configuration = manifestHead + "kind: FelixConfiguration\nmetadata: {name: default}\nspec: {vxlanVNI: 4096, routeRefreshInterval: 90s}\n"
	l := up(t, "wrong", 3)
	apply(t, l, configuration)
	setVXLANMode(t, l, "CrossSubnet")
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	store := newRawStore(t, l)
	wrong := func(kind api.Kind, name, text, with string) func() func() {
		return func() func() { return store.change(kind, name, "", text, with) }
	}
	for _, tt := range []struct {
		name  string
		wrong []func() (undo func())
		says  []string
	}{
		{"a Node with the address of this one", []func() func(){
			func() func() { return store.change(api.KindNode, "node1", "zombie", "node1", "zombie") },
		}, []string{"the addresses 10.10.1.1 and fd10:0:0:1::1 of this node are those of node zombie, too"}},
		{"what would lead nowhere, and ports that felix has for something else", []func() func(){
			wrong(api.KindFelixConfiguration, "default", "4096", `4096,"natOutgoingAddress":"127.0.0.1","wireguardListeningPort":51821`),
		}, []string{
			`spec.natOutgoingAddress: "127.0.0.1" is no IPv4 address of a host`,
			`spec.wireguardListeningPort: "51821" is the UDP port of wireguardListeningPortV6`,
		}},
		{"an MTU that IPv6 can't have", []func() func(){func() func() {
			apply(t, l, strings.Replace(configuration, "{vxlanVNI", "{vxlanMTU: 1200, vxlanVNI", 1))
			return func() { apply(t, l, configuration) }
		}}, []string{"vxlanMTU 1200 is less than the 1280 that IPv6 needs (RFC 8200, section 5): pods with an IPv6 address have 1280"}},
		{"a configuration of which nothing can be read", []func() func(){wrong(api.KindFelixConfiguration, "default", `"spec"`, `"spec`)}, []string{`read FelixConfiguration default:`}},
		{"what this node can't do", []func() func(){func() func() {
			apply(t, l, strings.Replace(configuration, "{vxlanVNI", "{vxlanMTU: 9000, mtuIfacePattern: '^ib', healthEnabled: true, healthHost: 0.0.0.0, healthPort: 179, vxlanVNI", 1))
			return func() { apply(t, l, configuration) }
		}}, []string{
			"vxlanMTU 9000 is more than the node's device eth0 carries whole (MTU 1500, less 50 for VXLAN): 1450 is used",
			`mtuIfacePattern "^ib" matches no device`,
			"serve health: listen tcp 0.0.0.0:179",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := startTraffic(t, l)
			var undo []func()
			for _, do := range tt.wrong {
				undo = append(undo, do())
			}
			for _, line := range tt.says {
				statusSays(t, l, line, true)
				logSays(t, l, line)
			}
			if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "new", Node: "node1", Containers: 1}); err != nil {
				t.Errorf("no pod can be made: %v", err)
			} else if err := l.DelPod(t.Context(), "new"); err != nil {
				t.Error(err)
			}
			for _, do := range undo {
				do()
			}
			for _, line := range tt.says {
				statusSays(t, l, line, false)
			}
			tr.stopAndDemandNoLoss(t)
			mustConverge(t, l)
		})
	}
}

// logSays looks for a line in felix's log on node1, where it is on one line.
func logSays(t *testing.T, l *lab.Lab, line string) {
	t.Helper()
	logOfSays(t, l, "node1", line)
}

func logOfSays(t *testing.T, l *lab.Lab, node, line string) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(l.Dir(), "nodes", node, "felix.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ReplaceAll(string(log), `\"`, `"`), line) {
		t.Errorf("the log does not say %q", line)
	}
}

// TestSettingsOfVXLANAreChangedOnRunningNodes: the devices follow, and what is lost is lost
// only while the nodes don't agree yet; connections hold.
func TestSettingsOfVXLANAreChangedOnRunningNodes(t *testing.T) {
	l := up(t, "vxlanset", 3)
	setVXLANMode(t, l, "Always")
	addPods(t, l, 6, 1)
	mustConverge(t, l)
	during := startTraffic(t, l)
	apply(t, l, manifestHead+"kind: FelixConfiguration\nmetadata: {name: default}\nspec: {vxlanVNI: 7, vxlanPort: 4790, vxlanMTU: 1400}\n")
	for _, n := range l.Topology().Nodes {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			var out bytes.Buffer
			err := l.Exec(n.Name, []string{"ip", "-d", "link", "show", "vxlan.calico"}, lab.Stdio{Out: &out, Err: &out})
			if err == nil && strings.Contains(out.String(), "vxlan id 7 ") && strings.Contains(out.String(), "dstport 4790") && strings.Contains(out.String(), "mtu 1400") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s has %v %s", n.Name, err, &out)
			}
		}
	}
	mustConverge(t, l)
	var asked sync.WaitGroup // each answers when nothing more can be under way
	for id, agent := range during.streams {
		asked.Go(func() {
			answer, err := l.Ask(t.Context(), agent, agentwire.Request{StopStream: id})
			if err != nil {
				t.Error(err)
				return
			}
			r := answer.Stream
			t.Logf("%s: sent %d, answered %d, longest gap %v", id, r.Sent, r.Answered, r.LongestGap)
			if r.Err != "" || r.LongestGap > 2*time.Second {
				t.Errorf("%s: %q, longest gap %v", id, r.Err, r.LongestGap)
			}
		})
	}
	asked.Wait()
	tr := startTraffic(t, l)
	time.Sleep(time.Second)
	tr.stopAndDemandNoLoss(t)
}

// TestLargePacketsThatGetLostAreFoundAndSaid: a router on the way carries less and tells
// nobody.
func TestLargePacketsThatGetLostAreFoundAndSaid(t *testing.T) {
	l := upWith(t, "blackhole", 3, func(s *lab.Spec) {
		s.Env = append(s.Env, "FELIX_PATHMTUPROBEINTERVAL=1", "FELIX_PROMETHEUSMETRICSENABLED=true")
	})
	mustConverge(t, l)
	onRouter := func(args ...string) {
		t.Helper()
		var out bytes.Buffer
		if err := l.Exec("router", args, lab.Stdio{Out: &out, Err: &out}); err != nil {
			t.Fatalf("%v: %v %s", args, err, &out)
		}
	}
	onRouter("nft", "add table inet silent; add chain inet silent out { type filter hook output priority 0; }; "+
		"add rule inet silent out icmp type destination-unreachable drop; add rule inet silent out icmpv6 type packet-too-big drop")
	onRouter("ip", "link", "set", "to-node3", "mtu", "1400")
	const says = "packets of more than 1400 bytes to node node3 (10.10.2.3)"
	statusSays(t, l, says, true)
	statusSays(t, l, "packets of more than 1400 bytes to node node2", false)
	onRouter("ip", "link", "set", "to-node3", "mtu", "1500")
	statusSays(t, l, says, false)

	// What the line advises works: pods and the file follow.
	run(t, l, "", "ip", "link", "set", "eth0", "mtu", "1400")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if mtu := run(t, l, "", "cat", "/var/lib/calico/mtu"); mtu == "1400" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the MTU of the underlay is not followed")
		}
	}
	if _, err := l.AddPod(t.Context(), lab.PodSpec{Name: "late", Node: "node1", Containers: 1}); err != nil {
		t.Fatal(err)
	}
	if out := run(t, l, "", "ip", "-o", "link", "show", "type", "veth"); !strings.Contains(out, fmt.Sprintf("mtu %d", 1400)) {
		t.Errorf("no pod's device has the new MTU:\n%s", out)
	}
}
