package netconf

import (
	"encoding/json"
	"errors"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

func parsePrevResult(cniVersion string, raw json.RawMessage) (*types100.Result, error) {
	if isNull(raw) {
		return nil, nil
	}
	var object map[string]json.RawMessage
	if err := decode("prevResult", raw, &object); err != nil {
		return nil, err
	}
	wrong := func(err error) error {
		return &Error{Key: "prevResult", Reason: prevResultReason(cniVersion, err)}
	}
	for _, list := range []string{"interfaces", "ips", "routes"} {
		if hasNull(object[list]) { // which the CNI library does not survive
			return nil, &Error{Key: "prevResult." + list, Reason: "has an element that is null; give what ADD answered, unchanged"}
		}
	}
	result, err := version.NewResult(cniVersion, raw)
	if err != nil {
		return nil, wrong(err)
	}
	converted, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, wrong(err)
	}
	return converted, nil
}

func hasNull(list json.RawMessage) bool {
	var elements []json.RawMessage
	return json.Unmarshal(list, &elements) == nil && slices.ContainsFunc(elements, isNull)
}

// prevResultReason puts what the CNI library says into words.
func prevResultReason(cniVersion string, err error) string {
	reason := "is not a CNI result of version " + cniVersion
	if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrongType.Field != "" {
		reason += ": " + wrongType.Field + ": " + wanted(wrongType)
	}
	return reason + "; give what ADD answered, unchanged"
}
