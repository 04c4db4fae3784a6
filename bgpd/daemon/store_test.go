package daemon

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/topology"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/lockfile"
)

func updateOf(obj api.Object) datastore.SyncUpdate {
	key, err := api.NewRegistry().KeyOf(obj)
	if err != nil {
		panic(err)
	}
	return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: obj}}
}

func node(name, v4 string) *api.Node {
	return &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: api.NodeSpec{BGP: &api.NodeBGPSpec{IPv4Address: v4}}}
}

func taken(s *store) (plan, bool) {
	select {
	case p := <-s.plans:
		return p, true
	default:
		return plan{}, false
	}
}

func blockWith(cidr, owner, user string) *api.IPAMBlock {
	index := 0
	return &api.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: cidr}, Spec: api.IPAMBlockSpec{
		CIDR: cidr, Affinity: &owner, Allocations: []*int{&index, nil},
		Attributes: []api.BlockAttributes{{ActiveOwnerAttrs: map[string]string{api.AttributeNode: user}}},
	}}
}

func TestNothingIsPlannedBeforeTheDatastoreIsInSync(t *testing.T) {
	s := newStore("node1")
	s.OnStatus(datastore.Resync)
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24"))})
	if p, ok := taken(s); ok {
		t.Fatalf("planned %+v", p)
	}
	s.OnStatus(datastore.InSync)
	if p, ok := taken(s); !ok || p.Missing != "" || p.Global.ASN != topology.DefaultASN {
		t.Errorf("plan %+v, %v", p, ok)
	}
}

// TestPlanWaitsForTheSecretsItNeeds: or peers with a password would come back from a
// restart after the others, and their routes be swept.
func TestPlanWaitsForTheSecretsItNeeds(t *testing.T) {
	s := newStore("node1")
	var wanted []string
	s.want = func(names []string) { wanted = names }
	s.OnStatus(datastore.InSync)
	taken(s)
	peer := &v3.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor"}, Spec: v3.BGPPeerSpec{PeerIP: "10.1.1.254", ASNumber: 64999}}
	peer.Spec.Password = &v3.BGPPassword{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "bgp"}, Key: "tor"}}
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24")), updateOf(peer)})
	if p, ok := taken(s); ok || !slices.Equal(wanted, []string{"bgp"}) {
		t.Fatalf("wanted %q, planned %+v", wanted, p)
	}
	s.setSecret("bgp", topology.Secret{Problem: "no answer"})
	if p, ok := taken(s); !ok || len(p.Peers) != 0 || len(p.Problems) != 1 {
		t.Errorf("plan %+v, %v; want one with the problem", p, ok)
	}
	s.setSecret("bgp", topology.Secret{Keys: map[string]string{"tor": "pw"}})
	if p, ok := taken(s); !ok || len(p.Peers) != 1 || string(p.Peers[0].Password) != "pw" {
		t.Errorf("plan %+v, %v; want the peer", p, ok)
	}
	changed := peer.DeepCopy()
	changed.Spec.Password = nil
	s.OnUpdates([]datastore.SyncUpdate{updateOf(changed)})
	if p, ok := taken(s); !ok || len(wanted) != 0 || len(s.secrets) != 0 || p.Peers[0].Password != "" {
		t.Errorf("wanted %q, known %v; want the secret to be forgotten", wanted, s.secrets)
	}
}

func TestFieldsOfANewerProgramAreNamed(t *testing.T) {
	s := newStore("node1")
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24"))})
	s.OnStatus(datastore.InSync)
	taken(s)
	stored := func(spec string) datastore.SyncUpdate {
		key := api.Key{Kind: api.KindBGPPeer, Name: "tor"}
		obj, unknown, err := api.NewRegistry().Decode(key, []byte(`{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{"name":"tor"},"spec":{"peerIP":"10.1.1.254","asNumber":64999`+spec+`}}`))
		if err != nil {
			t.Fatal(err)
		}
		return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: obj, Unknown: unknown}}
	}
	for _, tt := range []struct{ spec, want string }{
		{`,"keepaliveTime":"5s"`, "BGPPeer tor: spec.keepaliveTime: not known to this version, without effect"},
		{`,"keepaliveTime":"5s","more":1`, "BGPPeer tor: spec.keepaliveTime, spec.more: not known to this version, without effect"},
		{``, ""},
	} {
		s.OnUpdates([]datastore.SyncUpdate{stored(tt.spec)})
		if p, ok := taken(s); !ok || len(p.Peers) != 1 || strings.Join(p.Problems, "\n") != tt.want {
			t.Errorf("%q: planned %v, peers %v, problems %q", tt.spec, ok, p.Peers, p.Problems)
		}
	}
}

func TestOnlyTheLastPlanCounts(t *testing.T) {
	s := newStore("node1")
	s.OnStatus(datastore.InSync)
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24"))})
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node2", "10.1.1.12/24"))})
	p, ok := taken(s)
	if !ok || len(p.Peers) != 1 || p.Peers[0].Name != "node2" {
		t.Errorf("plan %+v, %v; want the one with node2", p, ok)
	}
	if p, ok := taken(s); ok {
		t.Errorf("another plan: %+v", p)
	}
	gone := updateOf(node("node2", ""))
	gone.Entry = nil
	s.OnUpdates([]datastore.SyncUpdate{gone})
	if p, ok := taken(s); !ok || len(p.Peers) != 0 {
		t.Errorf("plan %+v, %v; want no peers", p, ok)
	}
}

func TestPodsOfOtherNodesCauseNoWork(t *testing.T) {
	s := newStore("node1")
	s.OnUpdates([]datastore.SyncUpdate{
		updateOf(node("node1", "10.1.1.11/24")),
		updateOf(&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16"}}),
	})
	s.OnStatus(datastore.InSync)
	taken(s)
	s.OnUpdates([]datastore.SyncUpdate{updateOf(blockWith("10.65.2.0/26", "host:node2", "node2"))})
	s.OnUpdates([]datastore.SyncUpdate{updateOf(blockWith("10.65.1.0/26", "host:node1", "node1"))})
	if p, ok := taken(s); ok || len(s.objects[api.KindIPAMBlock]) != 0 {
		t.Errorf("planned %+v, kept %d blocks", p, len(s.objects[api.KindIPAMBlock]))
	}
	s.OnUpdates([]datastore.SyncUpdate{updateOf(blockWith("10.65.2.0/26", "host:node2", "node1"))})
	want := netip.MustParsePrefix("10.65.2.0/32")
	if p, ok := taken(s); !ok || len(p.Exports) != 1 || p.Exports[0].Prefix != want {
		t.Errorf("plan %+v, %v; want an export of %s", p, ok, want)
	}
	s.OnUpdates([]datastore.SyncUpdate{updateOf(blockWith("10.65.2.0/26", "host:node2", "node2"))})
	if p, ok := taken(s); !ok || len(p.Exports) != 0 {
		t.Errorf("plan %+v, %v; want the export gone", p, ok)
	}
}

func TestUnreadableResourceIsAProblemUntilItCanBeRead(t *testing.T) {
	s := newStore("node1")
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24"))})
	s.OnStatus(datastore.InSync)
	taken(s)
	u := updateOf(node("node2", "10.1.1.12/24"))
	bad := datastore.SyncUpdate{Key: u.Key, Invalid: &datastore.Invalid{Path: "/calico/x/node2", Key: u.Key, Err: errors.New("broken JSON")}}
	s.OnUpdates([]datastore.SyncUpdate{bad})
	p, ok := taken(s)
	if !ok || len(p.unreadable) != 1 || !strings.Contains(p.unreadable[0], "Node(node2): can't be read: broken JSON; nothing of it counts; write it anew with calicoctl apply") {
		t.Errorf("plan %+v, %v; want one problem", p, ok)
	}
	s.OnUpdates([]datastore.SyncUpdate{u})
	if p, ok := taken(s); !ok || len(p.unreadable) != 0 || len(p.Peers) != 1 {
		t.Errorf("plan %+v, %v; want node2 and no problem", p, ok)
	}
}

// TestWhatCanNoLongerBeReadHoldsOn: a session, an export and a filter stay, with a problem each
// in the words of felix; what is gone goes.
func TestWhatCanNoLongerBeReadHoldsOn(t *testing.T) {
	s := newStore("node1")
	filter := updateOf(&api.BGPFilter{ObjectMeta: metav1.ObjectMeta{Name: "f"}})
	others := updateOf(node("node2", "10.1.1.12/24"))
	all := []datastore.SyncUpdate{
		updateOf(node("node1", "10.1.1.11/24")), others, updateOf(affinityOf("node1", "10.65.1.0/26")), filter,
		updateOf(&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16"}}),
	}
	s.OnUpdates(all)
	s.OnStatus(datastore.InSync)
	before, _ := taken(s)
	if len(before.Peers) != 1 || len(before.Exports) != 1 {
		t.Fatalf("at first: %+v", before)
	}
	for _, u := range all {
		bad := datastore.SyncUpdate{Key: u.Key, Invalid: &datastore.Invalid{Path: "/calico/x", Key: u.Key, Err: errors.New("broken JSON")}, Kept: true}
		s.OnUpdates([]datastore.SyncUpdate{bad})
		now, ok := taken(s)
		if want := []string{u.Key.String() + ": " + bad.Unread()}; !ok || !slices.Equal(now.unreadable, want) {
			t.Errorf("unreadable %q, want %q", now.unreadable, want)
		}
		if now.unreadable = nil; !reflect.DeepEqual(before, now) {
			t.Errorf("%s: plan %+v, want it as before: %+v", u.Key, now, before)
		}
		s.OnUpdates([]datastore.SyncUpdate{u})
		if now, ok := taken(s); !ok || len(now.unreadable) != 0 {
			t.Errorf("when it can be read again: %q", now.unreadable)
		}
	}
	s.OnUpdates([]datastore.SyncUpdate{{Key: others.Key}})
	if now, ok := taken(s); !ok || len(now.Peers) != 0 {
		t.Errorf("a node that is gone is a peer: %+v", now.Peers)
	}
}

// TestFelixConfigurationIsReadFieldByField as felix reads it, which says what is wrong with it.
func TestFelixConfigurationIsReadFieldByField(t *testing.T) {
	key := api.Key{Kind: api.KindFelixConfiguration, Name: "default"}
	enabled := func(s *store) bool {
		config := of[*v3.FelixConfiguration](s, api.KindFelixConfiguration)
		return len(config) == 1 && config[0].Spec.FloatingIPs != nil && *config[0].Spec.FloatingIPs == v3.FloatingIPsEnabled
	}
	broken := func(text string, kept bool) []datastore.SyncUpdate {
		return []datastore.SyncUpdate{{Key: key, Invalid: &datastore.Invalid{Path: "/x", Key: key, Err: errors.New("broken"), Value: []byte(text)}, Kept: kept}}
	}
	s := newStore("node1")
	for _, step := range []struct {
		name    string
		updates []datastore.SyncUpdate
		want    bool
	}{
		{"never readable as a whole", broken(`{"spec":{"vxlanVNI":"x","floatingIPs":"Enabled"}}`, false), true},
		{"the field itself", broken(`{"spec":{"vxlanVNI":"x","floatingIPs":7}}`, false), false},
		{"one again", broken(`{"spec":{"vxlanVNI":"x","floatingIPs":"Enabled"}}`, true), true},
		{"no JSON any more", broken(`{"spec":{"vxl`, true), true},
		{"gone", []datastore.SyncUpdate{{Key: key}}, false},
		{"never JSON", broken(`{"spec":{"vxl`, false), false},
	} {
		s.OnUpdates(step.updates)
		if got := enabled(s); got != step.want || len(s.invalid) != 0 {
			t.Errorf("%s: floating addresses %v, want %v; said %q", step.name, got, step.want, s.invalid)
		}
	}
}

func TestUnreadableKeyIsAProblemUntilItIsGone(t *testing.T) {
	const path, other = "/calico/resources/v3/projectcalico.org/ippools/a/b/c", "/calico/ipam/v2/assignment/ipv4/block/foo"
	broken := func(path string) datastore.SyncUpdate {
		return datastore.SyncUpdate{Path: path, Invalid: &datastore.Invalid{Path: path, Err: errors.New("not a key")}}
	}
	s := newStore("node1")
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24"))})
	s.OnStatus(datastore.InSync)
	taken(s)
	s.OnUpdates([]datastore.SyncUpdate{broken(path), broken(other)})
	if p, ok := taken(s); !ok || len(p.unreadable) != 2 {
		t.Errorf("plan %+v, %v; want two problems", p, ok)
	}
	s.OnUpdates([]datastore.SyncUpdate{{Path: path}})
	if p, ok := taken(s); !ok || len(p.unreadable) != 1 || !strings.Contains(p.unreadable[0], other) {
		t.Errorf("plan %+v, %v; want only the problem of %s", p, ok, other)
	}
	s.OnUpdates([]datastore.SyncUpdate{{Path: other}})
	if p, ok := taken(s); !ok || len(p.unreadable) != 0 {
		t.Errorf("plan %+v, %v; want no problem", p, ok)
	}
}

func TestUnreadableBlockOfOthersIsNoProblemOnceItCanBeRead(t *testing.T) {
	s := newStore("node1")
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24"))})
	s.OnStatus(datastore.InSync)
	taken(s)
	u := updateOf(blockWith("10.65.2.0/26", "host:node2", "node2"))
	s.OnUpdates([]datastore.SyncUpdate{{Key: u.Key, Invalid: &datastore.Invalid{Path: "/calico/x/b", Key: u.Key, Err: errors.New("broken JSON")}}})
	if p, ok := taken(s); !ok || len(p.unreadable) != 1 {
		t.Errorf("plan %+v, %v; want one problem", p, ok)
	}
	s.OnUpdates([]datastore.SyncUpdate{u})
	if p, ok := taken(s); !ok || len(p.unreadable) != 0 {
		t.Errorf("plan %+v, %v; want no problem", p, ok)
	}
}

// TestOwnNodeThatCannotBeReadIsNotSaidToBeMissing: to create it would fail.
func TestOwnNodeThatCannotBeReadIsNotSaidToBeMissing(t *testing.T) {
	s := newStore("node1")
	key := updateOf(node("node1", "10.1.1.11/24")).Key
	s.OnUpdates([]datastore.SyncUpdate{{Key: key, Invalid: &datastore.Invalid{Path: "/calico/x/node1", Key: key, Err: errors.New("broken JSON")}}})
	s.OnStatus(datastore.InSync)
	const want = "Node node1 can't be read: write it anew with calicoctl apply"
	if p, ok := taken(s); !ok || p.Missing != want || p.NoNode || len(p.unreadable) != 1 {
		t.Errorf("plan %+v, %v; want %s", p, ok, want)
	}
}

// TestPoolThatIsGoneOrUnreadableTakesNoBlockAway: neither the exports nor what
// other nodes' announcements are measured by.
func TestPoolThatIsGoneOrUnreadableTakesNoBlockAway(t *testing.T) {
	pool := updateOf(&v3.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v3.IPPoolSpec{CIDR: "10.65.0.0/16"}})
	for name, change := range map[string]datastore.SyncUpdate{
		"gone":       {Key: pool.Key},
		"unreadable": {Key: pool.Key, Invalid: &datastore.Invalid{Path: "/calico/x/p", Key: pool.Key, Err: errors.New("broken JSON")}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore("node1")
			s.OnUpdates([]datastore.SyncUpdate{
				updateOf(node("node1", "10.1.1.11/24")), pool,
				updateOf(affinityOf("node1", "10.65.1.0/26")), updateOf(affinityOf("node2", "10.65.2.0/26")),
			})
			s.OnStatus(datastore.InSync)
			before, _ := taken(s)
			s.OnUpdates([]datastore.SyncUpdate{change})
			after, ok := taken(s)
			if !ok || len(before.Exports) != 1 || len(after.Exports) != 1 || after.Exports[0].Prefix != before.Exports[0].Prefix {
				t.Errorf("exports %v, after %v, want the same", before.Exports, after.Exports)
			}
			scope := after.Scope()
			if len(scope.Pools) != 0 || !scope.Blocks[netip.MustParsePrefix("10.65.2.0/26")] {
				t.Errorf("scope %+v, want no pool and node2's block", scope)
			}
			if unreadable := name == "unreadable"; unreadable != (len(after.unreadable) == 1) {
				t.Errorf("unreadable %q", after.unreadable)
			}
		})
	}
}

// affinityOf is a node's confirmed claim, named as the datastore names it.
func affinityOf(node, cidr string) *api.BlockAffinity {
	a := claim(node, cidr)
	a.Name = api.BlockAffinityKey(api.HostAffinity(node), netip.MustParsePrefix(cidr)).Name
	return a
}

func TestSecondBgpdIsRefused(t *testing.T) {
	path := t.TempDir() + "/run/bgpd.lock"
	release, err := lockfile.Acquire(path, "bgpd")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	err = Run(t.Context(), Config{Node: "node1", Lock: path}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.HasPrefix(err.Error(), "another bgpd (pid ") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

func TestLoad(t *testing.T) {
	env := map[string]string{
		"NODENAME": "node7", "ETCD_ENDPOINTS": "http://127.0.0.1:2379", "BGPD_SOCKET": "/tmp/s", "BGPD_LOG_LEVEL": "debug",
	}
	cfg, err := Load(func(k string) string { return env[k] }, "v1")
	if err != nil || cfg.Node != "node7" || cfg.Socket != "/tmp/s" || cfg.Lock != DefaultLock || cfg.LogLevel.String() != "DEBUG" {
		t.Errorf("config %+v, %v", cfg, err)
	}
	for key, bad := range map[string]string{"NODENAME": "a/b", "BGPD_LOG_LEVEL": "loud", "ETCD_ENDPOINTS": "ftp://x"} {
		_, err := Load(func(k string) string {
			if k == key {
				return bad
			}
			return env[k]
		}, "v1")
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s=%s: %v, want an error of one line", key, bad, err)
		}
	}
}

// TestServicesOfOneNameInTwoNamespacesAreTwo: all else has no namespace.
func TestServicesOfOneNameInTwoNamespacesAreTwo(t *testing.T) {
	s := newStore("node1")
	config := &v3.BGPConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	config.Spec.ServiceLoadBalancerIPs = []v3.ServiceLoadBalancerIPBlock{{CIDR: "198.51.100.0/24"}}
	one, two := localService("web", "198.51.100.1", "node1"), localService("web", "198.51.100.2", "node1")
	two.Namespace = "other"
	s.OnUpdates([]datastore.SyncUpdate{updateOf(node("node1", "10.1.1.11/24")), updateOf(config), updateOf(one), updateOf(two)})
	s.OnStatus(datastore.InSync)
	if p, ok := taken(s); !ok || len(p.Exports) != 3 {
		t.Errorf("plan %+v, %v; want the range and both", p, ok)
	}
	gone := updateOf(one)
	gone.Entry = nil
	s.OnUpdates([]datastore.SyncUpdate{gone})
	if p, ok := taken(s); !ok || len(p.Exports) != 2 || p.Services[netip.MustParsePrefix("198.51.100.2/32")] != "service other/web, load balancer address" {
		t.Errorf("plan %+v, %v; want the other to stay", p, ok)
	}
}
