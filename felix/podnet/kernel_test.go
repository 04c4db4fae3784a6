package podnet_test

import (
	"fmt"
	"os/exec"
)

// fd is the path of the pod's namespace.
func (p pod) fd() string { return fmt.Sprintf("/proc/self/fd/%d", p.ns.Fd()) }

// makeBridge makes a device of a kind that is never ours, in the namespace of the
// calling thread.
func makeBridge(name string) error {
	return exec.Command("ip", "link", "add", name, "type", "bridge").Run()
}
