package netconf

import "strings"

// CanBeContainer reports whether CNI allows a container to have that ID (spec 1.1.0,
// section 2).
func CanBeContainer(id string) bool {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return id != "" && strings.Trim(id, first+"_.-") == "" && strings.Contains(first, id[:1])
}

// CanBeInterface reports whether a device can have that name, written in the way that
// every tool reads: the kernel takes some more, and makes numbers of %d.
func CanBeInterface(name string) bool {
	bad := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == '%' || r > '~' })
	return name != "" && name != "." && name != ".." && len(name) <= maxIfName && !bad
}

// CanBePods reports whether a pod's interface can have that name besides: not the loopback
// device's, and none whose settings (net.ipv4.conf.<name>) are those of every device.
func CanBePods(name string) bool {
	return CanBeInterface(name) && name != "lo" && name != "all" && name != "default"
}

const maxIfName = 15 // IFNAMSIZ less its end mark
