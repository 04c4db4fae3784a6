// Package qos reads and checks what limits a pod's traffic: bandwidth, packet rate,
// connections, and the DSCP that its packets get. It is pure. felix, which makes the
// pod's endpoint and carries the limits out, and kube-controllers, which follow the pod,
// take it from here.
package qos

import (
	"fmt"
	"math"
	"strings"

	"github.com/projectcalico/api/pkg/lib/numorstring"
	"k8s.io/apimachinery/pkg/api/resource"

	"tortie/internal/api"
)

// Prefix begins the names of the annotations; each is then that of a field of
// [api.QoSControls] in JSON.
const Prefix = "qos.projectcalico.org/"

// The annotations of Kubernetes, which the reference plugin bandwidth heeds as well.
const (
	kubernetesIngress = "kubernetes.io/ingress-bandwidth"
	kubernetesEgress  = "kubernetes.io/egress-bandwidth"
)

// Reads reports whether an annotation of that name is read here.
func Reads(name string) bool {
	return strings.HasPrefix(name, Prefix) || name == kubernetesIngress || name == kubernetesEgress
}

// Error says which limit is wrong, and why.
type Error struct {
	// Name is that of the field in the record, or of the annotation.
	Name, Reason string
}

// Error is one line for the operator.
func (e *Error) Error() string { return e.Name + ": " + e.Reason }

// limit is one of the numbers, and what upstream takes for it.
type limit struct {
	name     string
	min, max int64
	text     string // the bounds, for people
	at       func(*api.QoSControls) *int64
}

// What upstream takes where a bandwidth or a packet rate stands alone.
const (
	DefaultBurst       = 4 << 30 // bits
	DefaultPacketBurst = 5
)

// limits is every number of the record, in the order in which they are looked at.
func limits() []limit {
	const (
		bandwidth   = "1k to 1P bits a second, such as 10M"
		burst       = "1k to 34359738360 bits, such as 1M"
		peak        = "1010 to 1010T bits a second"
		minburst    = "1k to 100M bytes"
		packets     = "1 to 10k packets a second"
		packetBurst = "1 to 10k packets"
		connections = "1 to 4294967295 connections"
	)
	maxBurst := int64(math.MaxUint32 * 8)
	return []limit{
		{"ingressBandwidth", 1e3, 1e15, bandwidth, func(q *api.QoSControls) *int64 { return &q.IngressBandwidth }},
		{"egressBandwidth", 1e3, 1e15, bandwidth, func(q *api.QoSControls) *int64 { return &q.EgressBandwidth }},
		{"ingressBurst", 1e3, maxBurst, burst, func(q *api.QoSControls) *int64 { return &q.IngressBurst }},
		{"egressBurst", 1e3, maxBurst, burst, func(q *api.QoSControls) *int64 { return &q.EgressBurst }},
		{"ingressPeakrate", 1010, 1010e12, peak, func(q *api.QoSControls) *int64 { return &q.IngressPeakrate }},
		{"egressPeakrate", 1010, 1010e12, peak, func(q *api.QoSControls) *int64 { return &q.EgressPeakrate }},
		{"ingressMinburst", 1e3, 100e6, minburst, func(q *api.QoSControls) *int64 { return &q.IngressMinburst }},
		{"egressMinburst", 1e3, 100e6, minburst, func(q *api.QoSControls) *int64 { return &q.EgressMinburst }},
		{"ingressPacketRate", 1, 1e4, packets, func(q *api.QoSControls) *int64 { return &q.IngressPacketRate }},
		{"egressPacketRate", 1, 1e4, packets, func(q *api.QoSControls) *int64 { return &q.EgressPacketRate }},
		{"ingressPacketBurst", 1, 1e4, packetBurst, func(q *api.QoSControls) *int64 { return &q.IngressPacketBurst }},
		{"egressPacketBurst", 1, 1e4, packetBurst, func(q *api.QoSControls) *int64 { return &q.EgressPacketBurst }},
		{"ingressMaxConnections", 1, math.MaxUint32, connections, func(q *api.QoSControls) *int64 { return &q.IngressMaxConnections }},
		{"egressMaxConnections", 1, math.MaxUint32, connections, func(q *api.QoSControls) *int64 { return &q.EgressMaxConnections }},
	}
}

// Annotated are the limits that a pod's annotations ask for; nil for none. Those of
// Kubernetes count where heedKubernetes is true: elsewhere a plugin of others has them.
// Upstream's own go before them.
func Annotated(annotations map[string]string, heedKubernetes bool) (*api.QoSControls, error) {
	if !readsAny(annotations) {
		return nil, nil
	}
	q, found := &api.QoSControls{}, false
	named := map[string]string{} // the annotation that a field is from
	for _, l := range limits() {
		name, value, ok := source(annotations, l.name, heedKubernetes)
		if !ok {
			continue
		}
		n, err := resource.ParseQuantity(value)
		if err != nil || n.Value() < l.min || n.Value() > l.max {
			return nil, &Error{name, fmt.Sprintf("%q: want %s", value, l.text)}
		}
		*l.at(q), found, named[l.name] = n.Value(), true, name
	}
	if value, ok := annotations[Prefix+"dscp"]; ok {
		dscp := numorstring.DSCPFromString(strings.TrimSpace(value))
		if dscp.Validate() != nil {
			return nil, &Error{Prefix + "dscp", fmt.Sprintf("%q: want 0 to 63, or a name such as EF or AF11", value)}
		}
		q.DSCP, found = &dscp, true
	}
	if !found {
		return nil, nil
	}
	if wrong := complete(q); wrong != nil {
		return nil, &Error{named[wrong.Name], wrong.Reason}
	}
	return q, nil
}

func readsAny(annotations map[string]string) bool {
	for name := range annotations {
		if Reads(name) {
			return true
		}
	}
	return false
}

// source is the annotation that says a field, if there is one.
func source(annotations map[string]string, field string, heedKubernetes bool) (name, value string, ok bool) {
	if value, ok = annotations[Prefix+field]; ok {
		return Prefix + field, value, true
	}
	switch {
	case !heedKubernetes:
	case field == "ingressBandwidth":
		name = kubernetesIngress
	case field == "egressBandwidth":
		name = kubernetesEgress
	}
	value, ok = annotations[name]
	return name, value, ok && name != ""
}

// Complete is limits with what upstream takes for what they leave open. The error is an
// [*Error] with the name of a field.
func Complete(q *api.QoSControls) (*api.QoSControls, error) {
	if q == nil {
		return nil, nil
	}
	full := *q
	for _, l := range limits() {
		if n := *l.at(&full); n != 0 && (n < l.min || n > l.max) {
			return nil, &Error{l.name, fmt.Sprintf("%d: want %s", n, l.text)}
		}
	}
	if full.DSCP != nil && full.DSCP.Validate() != nil {
		return nil, &Error{"dscp", full.DSCP.String() + ": want 0 to 63, or a name such as EF or AF11"}
	}
	if wrong := complete(&full); wrong != nil {
		return nil, wrong
	}
	if full == (api.QoSControls{}) {
		return nil, nil
	}
	return &full, nil
}

// complete fills in what is open, and refuses what has no meaning alone.
func complete(q *api.QoSControls) *Error {
	for _, way := range []struct {
		name                                                      string
		bandwidth, burst, peak, minburst, packetRate, packetBurst *int64
	}{
		{"ingress", &q.IngressBandwidth, &q.IngressBurst, &q.IngressPeakrate, &q.IngressMinburst, &q.IngressPacketRate, &q.IngressPacketBurst},
		{"egress", &q.EgressBandwidth, &q.EgressBurst, &q.EgressPeakrate, &q.EgressMinburst, &q.EgressPacketRate, &q.EgressPacketBurst},
	} {
		switch {
		case *way.burst != 0 && *way.bandwidth == 0:
			return &Error{way.name + "Burst", "means nothing alone; give " + way.name + "Bandwidth as well"}
		case *way.peak != 0 && *way.bandwidth == 0:
			return &Error{way.name + "Peakrate", "means nothing alone; give " + way.name + "Bandwidth as well"}
		case *way.peak != 0 && *way.peak <= *way.bandwidth:
			return &Error{way.name + "Peakrate", fmt.Sprintf("%d: want more than %sBandwidth, which is %d", *way.peak, way.name, *way.bandwidth)}
		case *way.minburst != 0 && *way.peak == 0:
			return &Error{way.name + "Minburst", "means nothing alone; give " + way.name + "Peakrate as well"}
		case *way.packetBurst != 0 && *way.packetRate == 0:
			return &Error{way.name + "PacketBurst", "means nothing alone; give " + way.name + "PacketRate as well"}
		}
		if *way.bandwidth != 0 && *way.burst == 0 {
			*way.burst = DefaultBurst
		}
		if *way.packetRate != 0 && *way.packetBurst == 0 {
			*way.packetBurst = DefaultPacketBurst
		}
	}
	return nil
}
