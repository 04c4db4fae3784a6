package output

import (
	"testing"

	"tortie/internal/api"
)

func TestFilterRuleNamesAllItSays(t *testing.T) {
	priority := 512
	rule := api.BGPFilterRule{
		CIDR: "10.65.0.0/16", Operator: "In", Source: "RemotePeers", Interface: "eth*", PeerType: api.BGPFilterExternal,
		Communities: &api.BGPFilterCommunityMatch{Values: []string{"65000:1"}}, ASPathPrefix: []api.ASN{65001, 65002}, Priority: &priority, Action: "Accept",
		Operations: []api.BGPFilterOperation{
			{AddCommunity: &api.BGPFilterAddCommunity{Value: "1:2:3"}},
			{PrependASPath: &api.BGPFilterPrependASPath{Prefix: []api.ASN{65000, 65000}}},
			{SetPriority: &api.BGPFilterSetPriority{Value: 7}},
		},
	}
	const want = "Accept In 10.65.0.0/16 source=RemotePeers interface=eth* peerType=eBGP community=65000:1 asPathPrefix=65001,65002 priority=512 " +
		"add-community=1:2:3 prepend=65000,65000 set-priority=7"
	if got := filterRule(&rule); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
