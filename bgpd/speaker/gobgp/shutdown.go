package gobgp

import (
	"fmt"

	gobgpapi "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// leastPreferred is the local preference of a path whose sender is about to go. RFC 8326
// section 4.2 recommends 0, which GoBGP can't set.
const leastPreferred = 1

// shutdown adds the statements of graceful shutdown (RFC 8326): all that is announced
// carries the community while we are about to go, and a path that was learned with it is
// preferred to none. A peer's filter comes after and may say otherwise.
func (b *policies) shutdown(ours bool) {
	const name = "graceful-shutdown"
	community := fmt.Sprintf("%d:%d", uint32(bgp.COMMUNITY_PLANNED_SHUT)>>16, uint32(bgp.COMMUNITY_PLANNED_SHUT)&0xffff)
	b.imports = append(b.imports, &gobgpapi.Statement{
		Name:       name + "/import",
		Conditions: &gobgpapi.Conditions{CommunitySet: b.set(gobgpapi.DefinedType_COMMUNITY, name, community)},
		Actions:    &gobgpapi.Actions{LocalPref: &gobgpapi.LocalPrefAction{Value: leastPreferred}},
	})
	if ours {
		b.exports = append(b.exports, &gobgpapi.Statement{
			Name:       name + "/export",
			Conditions: &gobgpapi.Conditions{},
			Actions: &gobgpapi.Actions{
				Community: &gobgpapi.CommunityAction{Type: gobgpapi.CommunityAction_ADD, Communities: []string{community}},
			},
		})
	}
}
