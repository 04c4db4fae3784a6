package api

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is written at every start of a pod is written here, as the JSON encoder
// would write it but without its reflection: a block, a handle and a workload
// endpoint, while somebody waits for the pod. False means that the encoder must do
// it: see plainWriter, and the rare fields below.
//
// A field added to one of these types belongs here too; the tests notice.

// The sizes of texts need not be right: what is too small grows, once more.
const (
	usualRecord    = 1 << 10
	usualAttribute = 176 // beside the handle
	usualNumber    = 32  // a sequence number and its ordinal
	usualOrdinal   = 5   // "null,"
	usualLabel     = 80
)

// writePlainBlock writes the stored value of a block.
func writePlainBlock(s *IPAMBlockSpec) ([]byte, bool) {
	size := usualRecord + usualOrdinal*(len(s.Allocations)+len(s.Unallocated)) + usualNumber*len(s.SequenceNumberForAllocation)
	for i := range s.Attributes {
		size += usualAttribute
		if handle := s.Attributes[i].HandleID; handle != nil {
			size += len(*handle)
		}
	}
	w := newPlainWriter(size)
	w.raw("{")
	w.field("cidr")
	w.str(s.CIDR)
	w.field("affinity")
	w.optionalStr(s.Affinity)
	if s.AffinityClaimTime != nil {
		w.field("affinity_claim_time")
		w.time(*s.AffinityClaimTime)
	}
	w.field("allocations")
	writeList(&w, s.Allocations, w.allocation)
	w.field("unallocated")
	writeList(&w, s.Unallocated, w.integer)
	w.field("attributes")
	writeList(&w, s.Attributes, w.attributes)
	w.field("sequenceNumber")
	w.number(s.SequenceNumber)
	w.field("sequenceNumberForAllocation")
	w.sequenceNumbers(s.SequenceNumberForAllocation, len(s.Allocations))
	w.field("deleted")
	w.boolean(s.Deleted)
	if s.HostAffinity != nil {
		w.field("hostAffinity")
		w.str(*s.HostAffinity)
	}
	w.raw("}")
	return w.text()
}

func (w *plainWriter) allocation(index *int) {
	if index == nil {
		w.null()
		return
	}
	w.integer(*index)
}

func (w *plainWriter) attributes(a BlockAttributes) {
	w.raw("{")
	w.field("handle_id")
	w.optionalStr(a.HandleID)
	w.field("secondary")
	w.ownerAttrs(a.ActiveOwnerAttrs)
	w.mapField("alternateOwnerAttrs", a.AlternateOwnerAttrs)
	w.raw("}")
}

// ownerAttrs writes a map that most often has no names but well-known ones.
func (w *plainWriter) ownerAttrs(attrs map[string]string) {
	if attrs == nil {
		w.null()
		return
	}
	start, left := len(w.out), len(attrs)
	w.raw("{")
	for _, name := range ownerNames() {
		if value, ok := attrs[name]; ok {
			w.field(name)
			w.str(value)
			left--
		}
	}
	w.raw("}")
	if left > 0 {
		w.out = w.out[:start]
		writeMap(w, attrs, w.str)
	}
}

// sequenceNumbers writes a map that most often has no names but those of ordinals
// below size.
func (w *plainWriter) sequenceNumbers(numbers map[string]uint64, size int) {
	if numbers == nil {
		w.null()
		return
	}
	start, left := len(w.out), len(numbers)
	w.raw("{")
	for n := 0; n < size && left > 0; n = nextByName(n, size) {
		name := strconv.Itoa(n)
		if number, ok := numbers[name]; ok {
			w.field(name)
			w.number(number)
			left--
		}
	}
	w.raw("}")
	if left > 0 {
		w.out = w.out[:start]
		writeMap(w, numbers, w.number)
	}
}

// nextByName is the ordinal below size after n in the order of their names, 0, 1,
// 10, 11, …, 19, 2, 20; size after the last.
func nextByName(n, size int) int {
	if n > 0 && 10*n < size {
		return 10 * n
	}
	for n+1 >= size || n%10 == 9 {
		if n /= 10; n == 0 {
			return size
		}
	}
	return n + 1
}

// writePlainHandle writes the stored value of a handle.
func writePlainHandle(s *IPAMHandleSpec) ([]byte, bool) {
	w := newPlainWriter(usualLabel * (1 + len(s.Block)))
	w.raw("{")
	w.field("block")
	writeMap(&w, s.Block, w.integer)
	w.field("deleted")
	w.boolean(s.Deleted)
	w.raw("}")
	return w.text()
}

// writePlainWorkloadEndpoint writes the stored value of a workload endpoint, but
// not one with ports, NAT or limits: those come from upstream's plugin.
func writePlainWorkloadEndpoint(o *WorkloadEndpoint) ([]byte, bool) {
	s := &o.Spec
	if len(s.IPNATs) > 0 || len(s.Ports) > 0 || s.QoSControls != nil {
		return nil, false
	}
	w := newPlainWriter(usualRecord + usualLabel*(len(o.Labels)+len(o.Annotations)))
	w.raw("{")
	w.strField("kind", string(KindWorkloadEndpoint))
	w.strField("apiVersion", GroupVersion)
	w.field("metadata")
	w.metadata(&o.ObjectMeta)
	w.field("spec")
	w.raw("{")
	w.strField("orchestrator", s.Orchestrator)
	w.strField("workload", s.Workload)
	w.strField("node", s.Node)
	w.strField("containerID", s.ContainerID)
	w.strField("pod", s.Pod)
	w.strField("endpoint", s.Endpoint)
	w.strField("serviceAccountName", s.ServiceAccountName)
	w.listField("ipNetworks", s.IPNetworks)
	w.strField("ipv4Gateway", s.IPv4Gateway)
	w.strField("ipv6Gateway", s.IPv6Gateway)
	w.listField("profiles", s.Profiles)
	w.strField("interfaceName", s.InterfaceName)
	w.strField("mac", s.MAC)
	w.listField("allowSpoofedSourcePrefixes", s.AllowSpoofedSourcePrefixes)
	w.raw("}}")
	return w.text()
}

// metadata writes what storedMeta has of it; the resource version is not stored.
func (w *plainWriter) metadata(m *metav1.ObjectMeta) {
	if m.SelfLink != "" || m.Generation != 0 || m.DeletionTimestamp != nil || m.DeletionGracePeriodSeconds != nil ||
		len(m.OwnerReferences) > 0 || len(m.Finalizers) > 0 || len(m.ManagedFields) > 0 {
		w.refuse()
	}
	w.raw("{")
	w.strField("name", m.Name)
	w.strField("generateName", m.GenerateName)
	w.strField("namespace", m.Namespace)
	w.strField("uid", string(m.UID))
	if !m.CreationTimestamp.IsZero() {
		w.field("creationTimestamp")
		w.time(m.CreationTimestamp)
	}
	w.mapField("labels", m.Labels)
	w.mapField("annotations", m.Annotations)
	w.raw("}")
}
