package netconf

import (
	"errors"
	"strings"

	"tortie/internal/api"
	"tortie/internal/qos"
)

// bandwidth reads the capability: bits a second and bits, 0 for none.
func (d document) bandwidth() (*api.QoSControls, error) {
	b := d.Runtime.Bandwidth
	limits, err := qos.Complete(&api.QoSControls{
		IngressBandwidth: b.IngressRate, IngressBurst: b.IngressBurst, EgressBandwidth: b.EgressRate, EgressBurst: b.EgressBurst,
	})
	if wrong, ok := errors.AsType[*qos.Error](err); ok {
		key := strings.Replace(wrong.Name, "Bandwidth", "Rate", 1)
		return nil, &Error{Key: "runtimeConfig.bandwidth." + key, Reason: strings.ReplaceAll(wrong.Reason, "Bandwidth", "Rate")}
	}
	return limits, err
}

// ParseLimits reads the limits that a pod's annotations ask for; nil for none. Those of
// Kubernetes are left to another plugin unless ownBandwidth is true.
func ParseLimits(annotations map[string]string, ownBandwidth bool) (*api.QoSControls, error) {
	limits, err := qos.Annotated(annotations, ownBandwidth)
	if wrong, ok := errors.AsType[*qos.Error](err); ok {
		return nil, &AnnotationError{Name: wrong.Name, Reason: wrong.Reason}
	}
	return limits, err
}
