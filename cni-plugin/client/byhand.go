package client

import (
	"strconv"

	"tortie/internal/control/cniwire"
)

// help follows the line that about gives.
const help = `It is run by a container runtime, which passes the call in CNI_* variables and the network
configuration on standard input; felix on the same node carries the call out. It takes no
arguments but --help and --version.
  CALICO_CNI_SOCKET   felix's socket; else the configuration's felix_socket; else
                      ` + cniwire.DefaultSocket + `
  CALICO_CNI_WAIT     how long to wait for that socket (default 2s)
`

// loopbackHelp is help under that name.
const loopbackHelp = `It is CNI's plugin loopback: it brings lo up in a pod's network namespace. It is run by a container
runtime, which passes the call in CNI_* variables and the network configuration on standard
input. It takes no arguments but --help and --version.
`

// byHand serves a person: a runtime sets CNI_COMMAND and passes no arguments.
func byHand(p Process) int {
	name := pluginName(p.Program)
	about := "CNI plugin " + name + " " + p.Version + "\n"
	args, err := p.Args()
	if err != nil {
		return write(p.Stderr, 1, []byte(name+": read the arguments from /proc/self/cmdline: "+err.Error()+"\n"))
	}
	if len(args) == 0 {
		return write(p.Stderr, 0, []byte(about+"CNI protocol versions supported: "+join(versions())+"\n"))
	}
	switch args[0] {
	case "-v", "-version", "--version":
		return write(p.Stdout, 0, []byte(about))
	case "-h", "-help", "--help":
		if name == NameLoopback {
			return write(p.Stdout, 0, []byte(about+loopbackHelp))
		}
		return write(p.Stdout, 0, []byte(about+help))
	}
	return write(p.Stderr, 2, []byte(name+": unknown argument "+strconv.Quote(args[0])+": see "+name+" --help\n"))
}
