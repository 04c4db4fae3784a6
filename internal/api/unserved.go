package api

import v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

// UnservedPeerFields are the fields of a BGPPeer that ask for something this version
// does not do. bgpd does not configure such a peer: without them it would advertise
// or accept what they forbid.
func UnservedPeerFields(s *v3.BGPPeerSpec) []string {
	return setFields([]field{
		{"password", s.Password != nil},
		{"keepOriginalNextHop", s.KeepOriginalNextHop && s.NextHopMode == nil},
		{"nextHopMode", s.NextHopMode != nil && *s.NextHopMode != v3.NextHopMode(v3.NextHopModeAuto)},
		{"reachableBy", s.ReachableBy != ""},
	})
}

// UnservedBGPFields are the fields of a BGPConfiguration that have no effect in this
// version. With nodeMeshPassword, which is not among them, the mesh is off.
func UnservedBGPFields(s *v3.BGPConfigurationSpec) []string {
	return setFields([]field{
		{"localWorkloadPeeringIPV4", s.LocalWorkloadPeeringIPV4 != ""},
		{"localWorkloadPeeringIPV6", s.LocalWorkloadPeeringIPV6 != ""},
	})
}

// field is one of a spec, and whether it says anything.
type field struct {
	name string
	set  bool
}

func setFields(all []field) (names []string) {
	for _, f := range all {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}
