package ruleset

import (
	"slices"
	"testing"

	"sigs.k8s.io/knftables"
)

// TestElementsReadAlikeWithAndWithoutNamesOfProtocols: nft writes a name where the
// machine has /etc/protocols, and a number in a container without.
func TestElementsReadAlikeWithAndWithoutNamesOfProtocols(t *testing.T) {
	s := Set{Name: "ports", Map: true, Type: "inet_proto . inet_service : ipv4_addr . inet_service"}
	want := []string{"132 . 9 : 10.0.0.1 . 9", "17 . 53 : 10.0.0.1 . 5353", "6 . 80 : 10.0.0.1 . 8080"}
	for _, protocols := range [][]string{{"tcp", "udp", "sctp"}, {"6", "17", "132"}} {
		got, err := s.normal([]*knftables.Element{
			{Key: []string{protocols[0], "80"}, Value: []string{"10.0.0.1", "8080"}},
			{Key: []string{protocols[1], "53"}, Value: []string{"10.0.0.1", "5353"}},
			{Key: []string{protocols[2], "9"}, Value: []string{"10.0.0.1", "9"}},
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v: %q, %v; want %q", protocols, got, err, want)
		}
	}
}
