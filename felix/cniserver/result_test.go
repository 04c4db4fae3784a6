package cniserver

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
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
