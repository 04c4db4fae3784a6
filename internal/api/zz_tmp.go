package api

import v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"


func checkBGPConfiguration(*checker, *v3.BGPConfiguration)                         {}
func checkBGPFilter(*checker, *v3.BGPFilter)                                       {}
func checkBGPPeer(*checker, *v3.BGPPeer)                                           {}
func checkCalicoNodeStatus(*checker, *v3.CalicoNodeStatus)                         {}
func checkClusterInformation(*checker, *v3.ClusterInformation)                     {}
func checkFelixConfiguration(*checker, *v3.FelixConfiguration)                     {}
func checkIPPool(*checker, *v3.IPPool)                                             {}
func checkIPReservation(*checker, *v3.IPReservation)                               {}
func checkKubeControllersConfiguration(*checker, *v3.KubeControllersConfiguration) {}
func checkGlobalNetworkPolicy(*checker, *v3.GlobalNetworkPolicy)                   {}
func checkNetworkPolicy(*checker, *v3.NetworkPolicy)                               {}
func checkStagedGlobalNetworkPolicy(*checker, *v3.StagedGlobalNetworkPolicy)       {}
func checkStagedNetworkPolicy(*checker, *v3.StagedNetworkPolicy)                   {}
func checkStagedKubernetesNetworkPolicy(*checker, *v3.StagedKubernetesNetworkPolicy) {
}
func checkGlobalNetworkSet(*checker, *v3.GlobalNetworkSet) {}
func checkNetworkSet(*checker, *v3.NetworkSet)             {}
func checkProfile(*checker, *v3.Profile)                   {}
func checkTier(*checker, *v3.Tier)                         {}
func checkHostEndpoint(*checker, *v3.HostEndpoint)         {}
func checkNode(*checker, *Node)                            {}
func checkWorkloadEndpoint(*checker, *WorkloadEndpoint)    {}
func checkBlockAffinity(*checker, *BlockAffinity)          {}
func checkIPAMBlock(*checker, *IPAMBlock)                  {}
func checkIPAMConfig(*checker, *IPAMConfig)                {}
func checkIPAMHandle(*checker, *IPAMHandle)                {}
