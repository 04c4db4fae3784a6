package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"tortie/internal/control/cniwire"
	"tortie/tests/lab"
)

// felixAlone measures the ADDs of a burst without the processes of the plugin: what
// is left is felix, the store and the kernel.
func (b *bench) felixAlone(context.Context) error {
	ours, err := b.ours()
	if err != nil {
		return err
	}
	var alone sample
	for round := range 3 {
		pods, err := b.sandboxes(fmt.Sprintf("alone-%d", round), b.burst)
		if err != nil {
			return err
		}
		each, err := together(pods, func(pod *lab.Pod) error { return b.ask(ours, "ADD", pod) })
		if err != nil {
			return err
		}
		alone = append(alone, each)
		if _, err := together(pods, func(pod *lab.Pod) error { return b.ask(ours, "DEL", pod) }); err != nil {
			return err
		}
		if err := b.removeSandboxes(pods); err != nil {
			return err
		}
	}
	b.alone = alone
	return nil
}

// ask sends a call to felix as the plugin does.
func (b *bench) ask(p plugin, verb string, pod *lab.Pod) error {
	conn, err := net.Dial("unix", b.lab.CNISocket("node1"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	err = cniwire.Write(conn, cniwire.Request{
		Version: cniwire.Version, Plugin: "calico", Command: verb, ContainerID: pod.ContainerID,
		Netns: pod.Pause.Netns(), IfName: "eth0", Config: p.conf,
		Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s", pod.Namespace, pod.Name),
	})
	if err != nil {
		return err
	}
	resp, err := cniwire.ReadResponse(conn)
	if err == nil && resp.Error != nil {
		err = errors.New(resp.Error.Msg)
	}
	return err
}

// emptyAtOnce measures the start of an empty program, as many at once and run on the
// node in the same way as the plugins: no plugin can take less.
func (b *bench) emptyAtOnce(pods []*lab.Pod) (sample, error) {
	var s sample
	for range 3 {
		each, err := b.together(plugin{path: b.empty}, "ADD", pods)
		if err != nil {
			return nil, err
		}
		s = append(s, each)
	}
	return s, nil
}
