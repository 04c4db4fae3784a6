package cniserver

import (
	"crypto/sha1"
	"encoding/hex"

	"tortie/felix/calc"
	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
	"tortie/internal/api"
	"tortie/ipam"
)

// The orchestrators of a WorkloadEndpoint.
const (
	orchestratorK8s = "k8s"
	orchestratorCNI = "cni"
)

// defaultNamespace is where endpoints of containers that are no pods stand.
const defaultNamespace = "default"

// hostIfHashLen is how many hex digits of the hash follow the prefix "cali".
const hostIfHashLen = 11

// endpointID names the WorkloadEndpoint of an attachment, as upstream does:
// "<node>-k8s-<pod>-<interface>" in the pod's namespace, or
// "<node>-cni-<container>-<interface>" in default.
func endpointID(node string, args netconf.Args, id journal.ID) calc.EndpointID {
	namespace, name := defaultNamespace, api.WorkloadEndpointID{
		Node: node, Orchestrator: orchestratorCNI, Workload: id.ContainerID, Endpoint: id.IfName,
	}
	if args.IsPod() {
		namespace, name.Orchestrator, name.Workload = args.K8sNamespace, orchestratorK8s, args.K8sPod
	}
	return calc.EndpointID{Namespace: namespace, Name: name.String()}
}

// primaryInterface is the interface every pod has; its host end is named as
// upstream names it.
const primaryInterface = "eth0"

// hostInterface names the host end of the veth pair. For a pod's eth0 it is
// upstream's name; else the hash covers all that identifies the attachment, so
// that neither two container IDs with a common beginning nor two interfaces of
// one pod collide.
func hostInterface(args netconf.Args, id journal.ID) string {
	identity := id.Network + "." + id.ContainerID + "." + id.IfName
	if args.IsPod() {
		identity = args.K8sNamespace + "." + args.K8sPod
		if id.IfName != primaryInterface {
			identity += "." + id.IfName
		}
	}
	sum := sha1.Sum([]byte(identity))
	return calc.InterfacePrefix + hex.EncodeToString(sum[:])[:hostIfHashLen]
}

// handleOf is the IPAM handle of an attachment.
func handleOf(id journal.ID) ipam.HandleID {
	return ipam.HandleID(id.Network + "." + id.ContainerID)
}

// legacyHandleOf is the handle under which upstream before v3 held addresses.
func legacyHandleOf(id journal.ID) ipam.HandleID { return ipam.HandleID(id.ContainerID) }
