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
