package cniserver

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"tortie/internal/control/cniwire"
)

// overrides reads CNI_NETNS_OVERRIDE as the CNI library does.
func overrides(value string) bool { return value == "1" || strings.EqualFold(value, "true") }

// notOwnNamespace refuses the namespace that felix runs in, which is the node's and
// the plugin's. A namespace that can't be looked at is judged elsewhere.
func (c call) notOwnNamespace() error {
	if c.anyNetns || c.netns == "" || !sameFile(c.netns, "/proc/thread-self/ns/net") {
		return nil
	}
	return &cniwire.Error{
		Code: cniwire.CodeInvalidNetns,
		Msg:  "CNI_NETNS: " + c.netns + " is the node's own network namespace, which the plugin runs in; want the container's",
	}
}

// sameNamespace refuses a repeated ADD for another network namespace while the
// first one is there: carried out, it would take the interface away from a pod
// that may be running. A first namespace that is gone is replaced, and said so.
func (a *addition) sameNamespace() error {
	before, ok := a.server.journal.Get(a.call.id)
	if !a.known || !ok || before.Netns == "" || before.Netns == a.call.netns || a.call.plugin == pluginIPAM {
		return nil
	}
	if !isNamespace(before.Netns) {
		a.server.log.Warn("the container's network namespace is gone; it is attached in another one",
			"attachment", before.String(), "before", before.Netns, "now", a.call.netns)
		return nil
	}
	if sameFile(before.Netns, a.call.netns) {
		return nil // two paths of one namespace
	}
	return invalidEnvironment("CNI_NETNS %s: container %s has its interface %s in another network namespace, %s; run DEL first",
		a.call.netns, a.call.id.ContainerID, a.call.id.IfName, before.Netns)
}

// isNamespace tells a namespace from the file that its mount leaves behind.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}
