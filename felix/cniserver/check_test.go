package cniserver

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tortie/felix/podnet"
	"tortie/internal/control/cniwire"
)

// told is a CHECK of the container c1 with a result.
func told(result string) cniwire.Request {
	r := request("CHECK", "c1")
	r.Config = json.RawMessage(`{"cniVersion": "1.1.0", "name": "net1", "type": "calico", "ipam": {"type": "calico-ipam"}, "prevResult": ` + result + `}`)
	return r
}

func TestCheckComparesTheResult(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to string // in the result of the ADD
		says     []string
	}{
		"nothing":                   {"", "", nil},
		"address":                   {`"10.65.0.1/32"`, `"10.65.7.7/32"`, []string{"the result has no address 10.65.0.1"}},
		"no interface of it":        {`/32","gateway":"169.254.1.1","interface":1`, `/32","gateway":"169.254.1.1","interface":99`, []string{"the result gives 10.65.0.1 to interface 99 of its list, which is not eth0"}},
		"the other interface":       {`/32","gateway":"169.254.1.1","interface":1`, `/32","gateway":"169.254.1.1","interface":0`, []string{"the result gives 10.65.0.1 to interface 0 of its list, which is not eth0"}},
		"before zero":               {`/32","gateway":"169.254.1.1","interface":1`, `/32","gateway":"169.254.1.1","interface":-1`, []string{"to interface -1 of its list"}},
		"the pod's interface":       {`"name":"eth0"`, `"name":"eth1"`, []string{"the result has no interface eth0"}},
		"the node's end":            {`"name":"cali`, `"name":"veth`, []string{"the result has no interface cali"}},
		"MAC of the node's end":     {`"ee:ee:ee:ee:ee:ee"`, `"02:00:00:00:00:07"`, []string{"the result gives cali", "the MAC address 02:00:00:00:00:07 instead of ee:ee:ee:ee:ee:ee"}},
		"in capitals":               {`"ee:ee:ee:ee:ee:ee"`, `"EE:EE:EE:EE:EE:EE"`, nil},
		"MTU of the node's end":     {`"mtu":1450,"name":"cali`, `"mtu":1400,"name":"cali`, []string{"the result gives cali", "the MTU 1400 instead of 1450"}},
		"MTU of the node's, unsaid": {`"mtu":1450,"name":"cali`, `"name":"cali`, nil},
	} {
		t.Run(name, inWorld(func(t *testing.T, w *world) {
			r := told(strings.Replace(string(w.ok(request("ADD", "c1"))), tc.from, tc.to, 1))
			if tc.says == nil {
				w.ok(r)
				return
			}
			msg := w.fails(r, cniwire.CodeInternal)
			for _, says := range tc.says {
				if !strings.Contains(msg, says) {
					t.Errorf("message %q, want %q", msg, says)
				}
			}
		}))
	}
}

// TestCheckWantsTheResult: without one it would compare with nothing and find all well.
func TestCheckWantsTheResult(t *testing.T) {
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "c1"))
		for _, r := range []cniwire.Request{told("null"), request("CHECK", "c1")} {
			e := w.server.Handle(t.Context(), r).Error
			if e == nil || e.Code != cniwire.CodeInvalidConfig || !strings.Contains(e.Msg, `key "prevResult": missing; CHECK compares with what ADD answered`) {
				t.Errorf("error %+v", e)
			}
		}
	})(t)
}

// TestCheckTellsWhatLaterPluginsHaveMadeOfThePodsSide: the pod is compared with the result,
// for all that this says of our interface; podnet's tests show how.
func TestCheckTellsWhatLaterPluginsHaveMadeOfThePodsSide(t *testing.T) {
	const result = `{"cniVersion": "1.1.0",
		"interfaces": [{"name": "lo", "sandbox": "/run/netns/c1"}, {"name": %q}, {"name": "eth0", "mac": "02:00:00:00:00:07", "mtu": 1300, "sandbox": "/proc/7/ns/net"}],
		"ips": [{"interface": 0, "address": "127.0.0.1/8"}, {"interface": 2, "address": "10.65.0.1/32"}, {"interface": 2, "address": "fd00::9/64"}, {"address": "192.0.2.1/24"}],
		"routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "198.51.100.7/24", "gw": "192.0.2.1"}, {"dst": "203.0.113.0/24"}, {"dst": "fd00:9::/64", "gw": "fe80::1", "table": 100}]}`
	inWorld(func(t *testing.T, w *world) {
		w.ok(request("ADD", "c1"))
		entry, _ := w.journal.Get(idOf(request("", "c1")))
		check := func(want *podnet.Told) {
			t.Helper()
			w.ok(told(fmt.Sprintf(result, entry.HostIf)))
			if diff := cmp.Diff(want, w.told, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		}
		want := &podnet.Told{
			MAC: "02:00:00:00:00:07", MTU: 1300, Addrs: []netip.Addr{netip.MustParseAddr("10.65.0.1"), netip.MustParseAddr("fd00::9")},
			Routes: []podnet.Hop{
				{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("169.254.1.1")},
				{Dst: netip.MustParsePrefix("198.51.100.7/24"), Via: netip.MustParseAddr("192.0.2.1")},
			},
		}
		check(want)
		// Upstream's plugin may have answered an ADD of which the journal knows nothing; its
		// result has no routes that are the pod's.
		w.kill()
		if err := os.Remove(filepath.Join(w.dir, "attachments.log")); err != nil {
			t.Fatal(err)
		}
		w.restart()
		want.Routes = nil
		check(want)
	})(t)
}
