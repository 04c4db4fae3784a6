// Command calico is the CNI plugin: it hands each CNI call to felix and prints
// the answer. Under the name calico-ipam it is the IPAM plugin.
package main

import (
	"os"

	"tortie/cni-plugin/client"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(client.Main(client.Process{
		Args:    os.Args,
		Getenv:  os.Getenv,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: version,
	}))
}
