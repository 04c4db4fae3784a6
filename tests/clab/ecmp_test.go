package clab

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

// leafRoutes are those of a leaf as iproute2 prints them.
const leafRoutes = `[
 {"dst":"default","gateway":"10.0.0.1","dev":"eth1"},
 {"dst":"10.30.1.0/24","dev":"rack","protocol":"kernel"},
 {"dst":"10.65.1.0/26","gateway":"10.30.1.1","dev":"rack","protocol":"bgp"},
 {"dst":"10.65.2.0/26","protocol":"bgp","nexthops":[{"gateway":"10.30.255.0","dev":"eth1"},{"gateway":"10.30.255.4","dev":"eth2"}]},
 {"dst":"10.65.3.0/26","protocol":"bgp","nexthops":[{"gateway":"10.30.255.4","dev":"eth2"},{"gateway":"10.30.255.0","dev":"eth1"}]},
 {"dst":"10.65.9.0/26","gateway":"10.30.255.0","dev":"eth1","protocol":"bgp"}]`

func TestRoutesToOtherRacksMustLeaveByBothSpines(t *testing.T) {
	var routes []route
	if err := json.Unmarshal([]byte(leafRoutes), &routes); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		pods  []string
		want  int
		wrong string
	}{
		{"two racks away, and one in this", []string{"10.65.1.1", "10.65.2.1", "10.65.2.2", "10.65.3.1"}, 2, ""},
		{"only in this rack", []string{"10.65.1.1", "fd65::1"}, 0, ""},
		{"by one spine alone", []string{"10.65.9.1"}, 0, "10.65.9.0/26 leaves by eth1"},
	} {
		var addrs []netip.Addr
		for _, p := range tt.pods {
			addrs = append(addrs, addr(p))
		}
		n, err := upwards(routes, addrs)
		if n != tt.want || (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %d routes, %v", tt.name, n, err)
		}
	}
}
