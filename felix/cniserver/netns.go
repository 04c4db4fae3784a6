package cniserver

import (
	"os"
)

// sameNamespace refuses a repeated ADD for another network namespace while the
// first one is there: carried out, it would take the interface away from a pod
// that may be running. A first namespace that is gone is replaced, and said so.
func (a *addition) sameNamespace() error {
	before, ok := a.server.journal.Get(a.call.id)
	if !a.known || !ok || before.Netns == "" || before.Netns == a.call.netns || a.call.plugin == pluginIPAM {
		return nil
	}
	first, err := os.Stat(before.Netns)
	if err != nil {
		a.server.log.Warn("the container's network namespace is gone; it is attached in another one",
			"attachment", before.String(), "before", before.Netns, "now", a.call.netns)
		return nil
	}
	if now, err := os.Stat(a.call.netns); err == nil && os.SameFile(first, now) {
		return nil // two paths of one namespace
	}
	return invalidEnvironment("CNI_NETNS %s: container %s has its interface %s in another network namespace, %s; run DEL first",
		a.call.netns, a.call.id.ContainerID, a.call.id.IfName, before.Netns)
}
