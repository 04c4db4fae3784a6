package lab

import (
	"fmt"
	"regexp"
	"strings"
)

// The names end up in paths, and those of Unix sockets have little room.
const (
	maxLabName = 20
	maxPodName = 40
)

// dnsLabel is RFC 1123's label.
const dnsLabel = `[a-z0-9]([a-z0-9-]*[a-z0-9])?`

// checkLabName refuses what must not become the name of a directory.
func checkLabName(name string) error {
	if len(name) > maxLabName || !regexp.MustCompile(`^`+dnsLabel+`$`).MatchString(name) {
		return fmt.Errorf("lab name %q: want at most %d lower-case letters, digits and dashes", name, maxLabName)
	}
	return nil
}

// checkPodName refuses what Kubernetes would, and what is too long for a socket.
func checkPodName(kind, name string) error {
	if len(name) > maxPodName || !regexp.MustCompile(`^`+dnsLabel+`(\.`+dnsLabel+`)*$`).MatchString(name) {
		return fmt.Errorf("%s %q: want at most %d lower-case letters, digits, dashes and dots", kind, name, maxPodName)
	}
	return nil
}

// splitPod reads "pod" or "namespace/pod".
func splitPod(name string) (namespace, pod string) {
	if namespace, pod, ok := strings.Cut(name, "/"); ok {
		return namespace, pod
	}
	return "default", name
}
