package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"tortie/internal/control/cniwire"
	"tortie/internal/control/felixstatus"
	"tortie/internal/kubeevent"
)

// reasonNotInstalled is for machines that read Events.
const reasonNotInstalled = "CNINotInstalled"

// tellTimeout bounds the last words of an installer that can't do its work.
const tellTimeout = 5 * time.Second

// tell has kubectl describe show, for this pod and its node, why nothing was
// installed. Outside of a cluster there is nobody to tell. credentials is where the
// pod has them, empty for where Kubernetes puts them.
func tell(getenv func(string) string, credentials string, why error) error {
	node := getenv("KUBERNETES_NODE_NAME")
	api, err := kubeevent.InCluster(getenv, credentials, "install-cni", node)
	if errors.Is(err, kubeevent.ErrNoCluster) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
	defer cancel()
	return kubeevent.Say(ctx, api, kubeevent.About(node, getenv), kubeevent.Warning{
		Reason: reasonNotInstalled, Message: "the CNI plugin is not installed: " + trimmed(why),
	})
}

// leaveWord has `calicoctl node status` on this node say why felix doesn't run: it
// starts after us. That of a felix which runs stays. Where the folder isn't there
// (it wasn't mounted) nobody would read it.
func leaveWord(getenv func(string) string, socket string, why error) error {
	if socket == "" {
		socket = cniwire.DefaultSocket
	}
	if _, err := os.Stat(filepath.Dir(socket)); err != nil {
		return nil //nolint:nilerr // as said above
	}
	if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
		return conn.Close()
	}
	return felixstatus.Write(felixstatus.Path(socket), felixstatus.Status{
		Node: getenv("KUBERNETES_NODE_NAME"), Version: version, Ended: "install-cni has failed, after which it would start: " + trimmed(why),
	})
}
