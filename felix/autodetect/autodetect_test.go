package autodetect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// device makes one that is up, with addresses.
func device(name, kind string, addrs ...string) Device {
	d := Device{Name: name, Kind: kind, Up: true}
	for _, a := range addrs {
		d.Addrs = append(d.Addrs, netip.MustParsePrefix(a))
	}
	return d
}

func withDefault(d Device) Device { d.Default = true; return d }

func down(d Device) Device { d.Up = false; return d }

// server is a machine with everything on it that a wrong choice could fall for.
func server() Host {
	return Host{Devices: []Device{
		device("lo", "", "127.0.0.1/8", "10.255.0.1/32", "::1/128"),
		device("docker0", "bridge", "172.17.0.1/16"),
		device("br-0123456789ab", "bridge", "172.18.0.1/16"),
		device("br0", "bridge", "192.168.122.1/24"),
		device("cali0123456789a", "veth", "169.254.1.1/32"),
		device("vethab12", "veth", "10.88.0.1/16"),
		device("pod0", "veth", "10.89.0.1/16"),
		down(device("eth9", "", "10.9.0.9/24")),
		device("eth0", "", "fe80::1/64", "10.10.1.1/24", "10.10.1.2/24", "fd10::1/64"),
		withDefault(device("eth1", "", "203.0.113.5/28", "2001:db8::5/64")),
		device("vxlan.calico", "vxlan", "10.65.1.0/32"),
	}}
}

func TestChoose(t *testing.T) {
	withInternal := server()
	withInternal.InternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("fd10::1")}
	strangeInternal := server()
	strangeInternal.InternalIPs = []netip.Addr{netip.MustParseAddr("198.51.100.9")}
	sending := server()
	sending.Source = func(string, bool) (netip.Addr, error) { return netip.MustParseAddr("203.0.113.5"), nil }
	unreachable := server()
	unreachable.Source = func(destination string, _ bool) (netip.Addr, error) {
		return netip.Addr{}, errors.New("look up " + destination + ": no such host")
	}
	container := Host{Devices: []Device{device("lo", "", "127.0.0.1/8"), withDefault(device("eth0", "veth", "172.17.0.3/16"))}}
	bridged := Host{Devices: []Device{device("eth0", ""), withDefault(device("br0", "bridge", "10.0.0.4/24"))}}

	for _, tc := range []struct {
		name, method string
		host         Host
		ipv6         bool
		want         string // address, device and reason; or part of the error
	}{
		{"what leads to containers is passed over", "", server(), false, "10.10.1.1/24 eth0 the first address of the first device that is the node's own"},
		{"IPv6, never a link-local address", "first-found", server(), true, "fd10::1/64 eth0 the first address of the first device that is the node's own"},
		{"a node that is a container itself", "first-found", container, false, "172.17.0.3/16 eth0 the first address"},
		{"a bridge that is the uplink", "first-found", bridged, false, "10.0.0.4/24 br0 the first address"},
		{"no address of the family", "first-found", bridged, true, "IPv6, method first-found: no address found: the node has no device with an IPv6 address; give the node an address, or name it with IP6 or another IP6_AUTODETECTION_METHOD; IP6=none is for a node that is to have none"},
		{"skip", "skip-interface=^eth0$,^x", server(), false, "203.0.113.5/28 eth1 the first address"},
		{"all skipped", "skip-interface=eth", server(), false, "eth1 is to be skipped"},
		{"interface", "interface=^eth[12]$", server(), false, "203.0.113.5/28 eth1 the first address of a device whose name matches \"^eth[12]$\""},
		{"interfaces in the order asked for", "interface=eth1, eth0", server(), false, "203.0.113.5/28 eth1"},
		{"an interface that is down", "interface=eth9", server(), false, "eth9 is down"},
		{"no such interface", "interface=bond0", server(), false, "the devices are lo, docker0"},
		{"an interface without the family", "interface=docker0", server(), true, "docker0 has no IPv6 address"},
		{"asked for by name a bridge is taken", "interface=docker0", server(), false, "172.17.0.1/16 docker0"},
		{"cidr", "cidr=192.0.2.0/24,203.0.113.0/24", server(), false, "203.0.113.5/28 eth1 the first address within 203.0.113.0/24"},
		{"cidr with host bits", "cidr=10.10.1.77/24", server(), false, "10.10.1.1/24 eth0"},
		{"cidr of none", "cidr=192.0.2.0/24", server(), false, "10.10.1.1 of eth0 is outside of 192.0.2.0/24"},
		{"internal IP", "kubernetes-internal-ip", withInternal, false, "203.0.113.5/28 eth1 the node's InternalIP in Kubernetes"},
		{"internal IPv6", "kubernetes-internal-ip", withInternal, true, "fd10::1/64 eth0 the node's InternalIP in Kubernetes"},
		{"internal IP of another machine", "kubernetes-internal-ip", strangeInternal, false, "the InternalIP 198.51.100.9 is on no device of the node"},
		{"no internal IP", "kubernetes-internal-ip", server(), false, "Kubernetes has no IPv4 InternalIP for the node"},
		{"can-reach", "can-reach=198.51.100.1", sending, false, "203.0.113.5/28 eth1 the address from which the node sends to 198.51.100.1"},
		{"can't reach", "can-reach=fabric.example", unreachable, false, "look up fabric.example: no such host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, err := Parse(tc.method)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Choose(m, tc.host, tc.ipv6)
			got := c.Addr.String() + " " + c.Device + " " + c.Reason
			if err != nil {
				got = err.Error()
			}
			if err != nil && !errors.Is(err, ErrNone) {
				t.Errorf("%v is no ErrNone", err)
			}
			if !strings.Contains(got, tc.want) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for method, says := range map[string]string{
		"first":             "want first-found, kubernetes-internal-ip, can-reach=",
		"first-found=eth0":  "first-found takes no value",
		"interface":         "the value is missing",
		"interface=eth0,":   `"" is no regular expression`,
		"interface=(":       `"(" is no regular expression`,
		"cidr=10.0.0.0":     `"10.0.0.0" is no CIDR`,
		"can-reach=":        "the value is missing",
		"Interface=eth0":    "unknown method",
		"skip-interface=(,": `"(" is no regular expression`,
	} {
		_, err := Parse(method)
		if !errors.Is(err, ErrMethod) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", method, err, says)
		}
	}
}
