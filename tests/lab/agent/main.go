// Command lab-agent is what runs inside the lab's namespaces. As "pause" it only
// holds a namespace, as Kubernetes' pause container does. As "node" it holds those of a node. As "serve" it is a
// container's process: it answers probes on TCP and UDP, telling each caller the
// address it was seen from, and probes others when the lab asks it to.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab-agent:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: lab-agent pause | lab-agent node -dir DIR -name NAME | lab-agent serve -name NAME -control SOCKET [-port PORT]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch args[0] {
	case "pause":
		<-ctx.Done()
		return nil
	case "node":
		return nodeMain(ctx, args[1:])
	case "serve":
		return serveMain(ctx, args[1:])
	}
	return fmt.Errorf("%q: the commands are pause, node and serve", args[0])
}

func serveMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	name := flags.String("name", "", "what this agent calls itself in answers")
	control := flags.String("control", "", "Unix socket the lab's requests come in on")
	port := flags.Int("port", 0, "TCP and UDP port to answer probes on")
	host := flags.String("host", "", "address to answer on; empty means all")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *name == "" || *control == "" || *port == 0 {
		return errors.New("serve: -name, -control and -port are required")
	}
	return serve(ctx, server{name: *name, control: *control, host: *host, port: *port})
}
