package cniserver

import (
	"os"

	"golang.org/x/sys/unix"
)

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
