package api_test

import (
	"testing"

	"tortie/internal/api"
)

func TestAutoTopologySettings(t *testing.T) {
	for value, want := range map[string]string{
		"":                        "",
		"off":                     "",
		"above=100":               "",
		"above=4 reflectors=2":    "",
		"reflectors=3":            "above is missing, want a number of nodes as in above=100",
		"above=4 above=5":         "above is given twice",
		"above=0":                 "above=0: want a number of nodes from 1 to 100000",
		"above=4 reflectors=x":    "reflectors=x: want a number",
		"above=4 cluster-id=zone": "cluster-id=zone: want the form of an IPv4 address, for example 224.0.0.1",
	} {
		got := ""
		if _, err := api.ParseAutoTopology(value); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}
