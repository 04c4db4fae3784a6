package api

import (
	"fmt"
	"net/netip"
	"strings"
)

// Kind names a resource type as it stands in a manifest, for example "IPPool".
type Kind string

// Every kind the datastore holds. The first group are projectcalico.org/v3
// resources; the second are the IPAM records, which have keys and values of
// their own below /calico/ipam/v2; the last are records that upstream hasn't.
const (
	KindBGPConfiguration              Kind = "BGPConfiguration"
	KindBGPFilter                     Kind = "BGPFilter"
	KindBGPPeer                       Kind = "BGPPeer"
	KindCalicoNodeStatus              Kind = "CalicoNodeStatus"
	KindClusterInformation            Kind = "ClusterInformation"
	KindFelixConfiguration            Kind = "FelixConfiguration"
	KindGlobalNetworkPolicy           Kind = "GlobalNetworkPolicy"
	KindGlobalNetworkSet              Kind = "GlobalNetworkSet"
	KindHostEndpoint                  Kind = "HostEndpoint"
	KindIPPool                        Kind = "IPPool"
	KindIPReservation                 Kind = "IPReservation"
	KindKubeControllersConfiguration  Kind = "KubeControllersConfiguration"
	KindNetworkPolicy                 Kind = "NetworkPolicy"
	KindNetworkSet                    Kind = "NetworkSet"
	KindNode                          Kind = "Node"
	KindProfile                       Kind = "Profile"
	KindStagedGlobalNetworkPolicy     Kind = "StagedGlobalNetworkPolicy"
	KindStagedKubernetesNetworkPolicy Kind = "StagedKubernetesNetworkPolicy"
	KindStagedNetworkPolicy           Kind = "StagedNetworkPolicy"
	KindTier                          Kind = "Tier"
	KindWorkloadEndpoint              Kind = "WorkloadEndpoint"

	KindBlockAffinity Kind = "BlockAffinity"
	KindIPAMBlock     Kind = "IPAMBlock"
	KindIPAMConfig    Kind = "IPAMConfig"
	KindIPAMHandle    Kind = "IPAMHandle"

	KindAdvertisedService Kind = "AdvertisedService"
	KindIPAMHistory       Kind = "IPAMHistory"
	KindIPAMLoan          Kind = "IPAMLoan"
)

// Key identifies one object in the datastore. It is comparable and independent
// of the backend; Registry.Path gives its place in etcd.
type Key struct {
	Kind      Kind
	Namespace string // empty for cluster-wide kinds
	Name      string
}

// String is the form used in messages: "IPPool(pool-v4)", "NetworkPolicy(ns1/allow-web)".
func (k Key) String() string {
	if k.Namespace == "" {
		return fmt.Sprintf("%s(%s)", k.Kind, k.Name)
	}
	return fmt.Sprintf("%s(%s/%s)", k.Kind, k.Namespace, k.Name)
}

// AffinityType says what kind of owner a block has: a host, or a virtual owner
// such as the load-balancer allocator.
type AffinityType string

// The affinity types of upstream's layout.
const (
	AffinityHost    AffinityType = "host"
	AffinityVirtual AffinityType = "virtual"
)

// Affinity names the owner of a block. Its text form, as stored in a block's
// affinity field, is "host:node1".
type Affinity struct {
	Type AffinityType
	Name string
}

// HostAffinity is the affinity of a node.
func HostAffinity(node string) Affinity { return Affinity{Type: AffinityHost, Name: node} }

// String is the stored form, "host:node1".
func (a Affinity) String() string { return string(a.Type) + ":" + a.Name }

// ParseAffinity reads the stored form of an affinity.
func ParseAffinity(s string) (Affinity, error) {
	typ, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || (typ != string(AffinityHost) && typ != string(AffinityVirtual)) {
		return Affinity{}, fmt.Errorf("affinity %q: want host:<node> or virtual:<name>", s)
	}
	return Affinity{Type: AffinityType(typ), Name: name}, nil
}

// BlockKey is the key of the IPAMBlock for a block CIDR; its name is the CIDR.
func BlockKey(block netip.Prefix) Key {
	return Key{Kind: KindIPAMBlock, Name: block.String()}
}

// BlockAffinityKey is the key of the record by which owner claims block; its
// name is "<affinity>/<cidr>", for example "host:node1/10.65.1.0/26".
func BlockAffinityKey(owner Affinity, block netip.Prefix) Key {
	return Key{Kind: KindBlockAffinity, Name: owner.String() + "/" + block.String()}
}

// ParseBlockAffinityName is the inverse of BlockAffinityKey.
func ParseBlockAffinityName(name string) (Affinity, netip.Prefix, error) {
	owner, cidr, ok := strings.Cut(name, "/")
	if !ok {
		return Affinity{}, netip.Prefix{}, fmt.Errorf("block affinity name %q: want <affinity>/<cidr>", name)
	}
	affinity, err := ParseAffinity(owner)
	if err != nil {
		return Affinity{}, netip.Prefix{}, fmt.Errorf("block affinity name %q: %w", name, err)
	}
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return Affinity{}, netip.Prefix{}, fmt.Errorf("block affinity name %q: %q: want a CIDR such as 10.65.1.0/26", name, cidr)
	}
	return affinity, prefix, nil
}

// HandleKey is the key of the IPAMHandle with the given identifier.
func HandleKey(id string) Key { return Key{Kind: KindIPAMHandle, Name: id} }

// IPAMConfigKey is the key of the one IPAMConfig.
func IPAMConfigKey() Key { return Key{Kind: KindIPAMConfig, Name: "default"} }
