package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"tortie/tests/e2e/machine"
)

// ipBatch runs ip commands, one a line, on a machine.
func ipBatch(ctx context.Context, m *machine.Machine, commands string) error {
	cmd := m.Command(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set up the network of %s: %w: %s", m.Spec.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// setUpRouter makes the router's bridges.
func setUpRouter(ctx context.Context, router *machine.Machine) error {
	var b strings.Builder
	b.WriteString("link set lo up\n")
	for _, segment := range []string{"a", "b", "out"} {
		gw := gateway(segment)
		fmt.Fprintf(&b, "link add seg-%s type bridge stp_state 0\nlink set seg-%s up\n", segment, segment)
		fmt.Fprintf(&b, "addr add %s dev seg-%s\naddr add %s dev seg-%s nodad\n", gw.V4, segment, gw.V6, segment)
	}
	if err := ipBatch(ctx, router, b.String()); err != nil {
		return err
	}
	_, err := router.Run(ctx, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.fib_multipath_hash_policy=1")
	return err
}

// plug connects a machine with its segment.
func plug(ctx context.Context, router, m *machine.Machine, h Host, f Families) error {
	gw := gateway(h.Segment)
	port := "p-" + h.Name
	// Made from here, where both machines have process IDs.
	if err := runHere(ctx, "ip", "link", "add", port, "netns", strconv.Itoa(router.PID),
		"type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.PID)); err != nil {
		return err
	}
	if err := ipBatch(ctx, router, fmt.Sprintf("link set %s master seg-%s up\n", port, h.Segment)); err != nil {
		return err
	}
	commands := "link set lo up\nlink set eth0 up\n"
	if f.Have(false) {
		commands += fmt.Sprintf("addr add %s dev eth0\nroute add default via %s\n", h.V4, gw.V4.Addr())
	}
	if f.Have(true) {
		commands += fmt.Sprintf("addr add %s dev eth0 nodad\nroute add default via inet6 %s\n", h.V6, gw.V6.Addr())
	}
	return ipBatch(ctx, m, commands)
}

// birdConfig is the router's: it is a peer of whoever in the cluster wants one.
func birdConfig() string {
	var b strings.Builder
	gw := gateway("a")
	fmt.Fprintf(&b, "log stderr all;\nrouter id %s;\nprotocol device { scan time 2; }\nprotocol direct { ipv4; ipv6; }\n", gw.V4.Addr())
	b.WriteString("protocol kernel k4 { ipv4 { export where source = RTS_BGP; }; merge paths on; }\nprotocol kernel k6 { ipv6 { export where source = RTS_BGP; }; merge paths on; }\n")
	for _, segment := range []string{"a", "b"} {
		gw := gateway(segment)
		fmt.Fprintf(&b, "protocol bgp nodes_%s_v4 { local %s as %d; neighbor range %s external; dynamic name \"%s4_\"; ipv4 { import all; export none; }; }\n",
			segment, gw.V4.Addr(), RouterASN, gw.V4.Masked(), segment)
		fmt.Fprintf(&b, "protocol bgp nodes_%s_v6 { local %s as %d; neighbor range %s external; dynamic name \"%s6_\"; ipv6 { import all; export none; }; }\n",
			segment, gw.V6.Addr(), RouterASN, gw.V6.Masked(), segment)
	}
	return b.String()
}
