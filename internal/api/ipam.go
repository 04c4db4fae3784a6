package api

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AffinityState is the progress of a claim on a block:
// pending → confirmed → pendingDeletion.
type AffinityState string

// The states of a block affinity.
const (
	AffinityPending         AffinityState = "pending"
	AffinityConfirmed       AffinityState = "confirmed"
	AffinityPendingDeletion AffinityState = "pendingDeletion"
)

// BlockAffinity records that an owner claims a block. Type, Node and CIDR are
// carried by the key; only State and Deleted are stored in the value.
type BlockAffinity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BlockAffinitySpec `json:"spec"`
}

// BlockAffinitySpec is what is known of a claim.
type BlockAffinitySpec struct {
	State   AffinityState `json:"state"`
	Type    AffinityType  `json:"type,omitempty"`
	Node    string        `json:"node"`
	CIDR    string        `json:"cidr"`
	Deleted bool          `json:"deleted"`
}

// IPAMBlock is one block of addresses and the state of each of them.
type IPAMBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              IPAMBlockSpec `json:"spec"`
}

// IPAMBlockSpec is the stored value of a block, field for field in upstream's
// order.
type IPAMBlockSpec struct {
	CIDR string `json:"cidr"`
	// Affinity is the owner in stored form, nil for a block without one.
	Affinity          *string      `json:"affinity"`
	AffinityClaimTime *metav1.Time `json:"affinity_claim_time,omitempty"`
	// Allocations has one entry per address of the block: nil when free, else an
	// index into Attributes.
	Allocations []*int `json:"allocations"`
	// Unallocated is the FIFO of free ordinals: assignment takes from the front,
	// release appends, so that an address is reused as late as possible.
	Unallocated []int             `json:"unallocated"`
	Attributes  []BlockAttributes `json:"attributes"`
	// SequenceNumber grows by one with every write of the block.
	SequenceNumber uint64 `json:"sequenceNumber"`
	// SequenceNumberForAllocation maps an ordinal, in decimal, to the block's
	// sequence number just before it was assigned. Readers tolerate entries of
	// free ordinals.
	SequenceNumberForAllocation map[string]uint64 `json:"sequenceNumberForAllocation"`
	Deleted                     bool              `json:"deleted"`
	// HostAffinity is how stores older than Calico 3 named the owner.
	HostAffinity *string `json:"hostAffinity,omitempty"`
}

// BlockAttributes says who holds an address. Equal attributes are shared by
// several ordinals.
type BlockAttributes struct {
	HandleID            *string           `json:"handle_id"`
	ActiveOwnerAttrs    map[string]string `json:"secondary"`
	AlternateOwnerAttrs map[string]string `json:"alternateOwnerAttrs,omitempty"`
}

// The keys of BlockAttributes.ActiveOwnerAttrs.
const (
	AttributeNode      = "node"
	AttributeNamespace = "namespace"
	AttributePod       = "pod"
	AttributeTimestamp = "timestamp"
	AttributeType      = "type"
	AttributeService   = "service"
	AttributePodUID    = "pod-uid" // not upstream's
)

// IPAMHandle counts, per block, the addresses held under one handle.
type IPAMHandle struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              IPAMHandleSpec `json:"spec"`
}

// IPAMHandleSpec is the stored value of a handle.
type IPAMHandleSpec struct {
	// HandleID is carried by the key and not stored in the value.
	HandleID string `json:"handleID,omitempty"`
	// Block maps a block CIDR to the number of addresses held in it.
	Block   map[string]int `json:"block"`
	Deleted bool           `json:"deleted"`
}

// IPAMConfig is the cluster-wide configuration of the allocator.
type IPAMConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              IPAMConfigSpec `json:"spec"`
}

// IPAMConfigSpec is the stored value of the IPAM configuration.
type IPAMConfigSpec struct {
	StrictAffinity     bool `json:"strict_affinity,omitempty"`
	AutoAllocateBlocks bool `json:"auto_allocate_blocks"`
	// MaxBlocksPerHost limits the blocks a node may own; 0 means the default, 20.
	MaxBlocksPerHost             int    `json:"maxBlocksPerHost,omitempty"`
	KubeVirtVMAddressPersistence string `json:"kubeVirtVMAddressPersistence,omitempty"`
	// IPCooldownSeconds is for how long a released address is not assigned again; 0
	// for not at all. Calico has it since the release after v3.32.
	IPCooldownSeconds int `json:"ipCooldownSeconds,omitempty"`
}
