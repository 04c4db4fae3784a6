package cmd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNearestProposesWhatWasProbablyMeant(t *testing.T) {
	names := [][]string{
		{"bgppeer", "bgppeers", "bgpp", "bp"},
		{"bgpfilter", "bgpfilters"},
		{"bgpconfiguration", "bgpconfigurations"},
		{"ippool", "ippools", "pool"},
		{"ipreservation", "ipreservations"},
		{"networkpolicy", "networkpolicies", "np"},
		{"globalnetworkpolicy", "globalnetworkpolicies", "gnp"},
		{"node", "nodes", "no"},
	}
	for word, want := range map[string][]string{
		"ippol":         {"ippool"},
		"IPPolos":       {"ippool"},
		"bgp":           {"bgppeer", "bgpfilter", "bgpconfiguration"},
		"networkpolcy":  {"networkpolicy"},
		"networkpolicy": {"networkpolicy", "globalnetworkpolicy"},
		"nodde":         {"node"},
		"widgets":       nil,
		"foo":           nil,
		"x":             nil,
		"":              nil,
	} {
		if diff := cmp.Diff(want, nearest(word, names)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", word, diff)
		}
	}
}
