package journal

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// TestNoFieldOfAnEntryIsForgotten sets each field in turn, and all of them: what is
// read is what was written.
func TestNoFieldOfAnEntryIsForgotten(t *testing.T) {
	whole := Entry{
		ID: ID{Network: "net1", ContainerID: "c1", IfName: "eth0"}, State: StateReleasing, Plugin: "calico",
		Namespace: "ns1", Endpoint: "node1-k8s-web-eth0", HostIf: "cali0123456789a", Netns: "/run/netns/a", MAC: "02:00:00:00:00:01", MTU: 1450,
		Addrs: []netip.Addr{netip.MustParseAddr("10.65.0.1"), netip.MustParseAddr("fd65::1")}, BlockBits: []int{26, 122},
		HostPorts: []HostPort{
			{Protocol: "tcp", HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 8080, Port: 80},
			{Protocol: "udp", HostPort: 53, Port: 5353},
		},
		Sources:  []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fd00::/8")},
		Floating: []netip.Addr{netip.MustParseAddr("10.65.9.9"), netip.MustParseAddr("fd65::9")},
		Given:    true,
		IPAM:     &IPAM{Type: "host-local", Path: "/opt/cni/bin", Config: "{\"name\":\"net1\"}\n", Args: "K=V", DNS: &types.DNS{Nameservers: []string{"192.0.2.53"}}},
		Detached: true, Since: time.Date(2026, 11, 26, 14, 0, 0, 123456789, time.UTC),
	}
	least := Entry{ID: whole.ID, State: StateAdding, Plugin: "calico"}
	entries := []Entry{whole, least}
	for i := range reflect.TypeFor[Entry]().NumField() {
		full := reflect.ValueOf(whole).Field(i)
		if full.IsZero() {
			t.Errorf("field %s is not set in the test's entry", reflect.TypeFor[Entry]().Field(i).Name)
		}
		one := least
		reflect.ValueOf(&one).Elem().Field(i).Set(full)
		entries = append(entries, one)
	}
	for _, e := range entries {
		wantSame(t, e)
	}
}

func TestAnyTextSurvivesTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(1, 20, -1)
		wantSame(t, Entry{
			ID:    ID{Network: text.Draw(t, "network"), ContainerID: text.Draw(t, "container"), IfName: text.Draw(t, "interface")},
			State: StateAttached, Plugin: text.Draw(t, "plugin"), Netns: text.Draw(t, "netns"), MTU: rapid.Int().Draw(t, "mtu"),
		})
	})
}

func wantSame(t interface {
	Helper()
	Errorf(format string, args ...any)
}, e Entry,
) {
	t.Helper()
	line := strings.TrimSuffix(string(encode(record{Put: &e})), "\n")
	got, err := decode([]byte(line))
	if err != nil || strings.Contains(line, "\n") {
		t.Errorf("%q: %v", line, err)
		return
	}
	if diff := cmp.Diff(e, *got.Put, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
	drop, err := decode([]byte(strings.TrimSuffix(string(encode(record{Drop: &e.ID})), "\n")))
	if err != nil || *drop.Drop != e.ID {
		t.Errorf("drop of %+v: %+v, %v", e.ID, drop.Drop, err)
	}
}
