package suggest

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"ipam", "num_queues", "mtu", "policy", "etcd_endpoints"}
	for word, want := range map[string]string{
		"ipamm": "ipam", "IPAM": "ipam", "numqueues": "num_queues", "mut": "mtu", "polcy": "policy",
		"etcd_endpoint": "etcd_endpoints", "zzzzzzzz": "", "": "",
	} {
		if got := Nearest(word, names); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"node", "node", 0},
		{"", "node", 4},
		{"node", "", 4},
		{"kitten", "sitting", 3},
		{"ippol", "ippool", 1},
		{"Node", "node", 1},
		{"ab", "ba", 2},
	} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
