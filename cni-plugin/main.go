// The runtime need not heed its cgroup's CPU limit, nor watch it for changes: one
// thread does all the work here, and the watching would cost more than that.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command calico is the CNI plugin: it hands each CNI call to felix and prints
// the answer. Under the name calico-ipam it is the IPAM plugin.
package main

import (
	"syscall"

	"tortie/cni-plugin/client"
)

// version is set by the linker.
var version = "dev"

func main() {
	syscall.Exit(client.Main(client.Process{ // nothing is buffered that would be lost
		Program: program(),
		Args:    arguments,
		Getenv:  getenv,
		Stdin:   file(syscall.Stdin),
		Stdout:  file(syscall.Stdout),
		Stderr:  file(syscall.Stderr),
		Pause:   pause,
		Version: version,
	}))
}
