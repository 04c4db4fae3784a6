package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// birdPeer is a session of a BIRD.
type birdPeer struct {
	addr    netip.Addr
	passive bool
}

// startBIRD runs BIRD 2 in the node's namespace, for the same job as a bgpd there.
func (h *hub) startBIRD(n *node, peers ...birdPeer) error {
	var conf strings.Builder
	fmt.Fprintf(&conf, `router id %s;
protocol device {}
protocol direct { ipv4; }
protocol kernel { scan time 3600; ipv4 { import none; export where source = RTS_BGP; }; }
template bgp peer {
  local %s as %d; direct; graceful restart on; connect delay time 1; ipv4 { import all; export none; };
}
`, n.addr, n.addr, peerASN)
	for i, p := range peers {
		passive := "off"
		if p.passive {
			passive = "on"
		}
		fmt.Fprintf(&conf, "protocol bgp p%d from peer { neighbor %s as %d; passive %s; }\n", i, p.addr, peerASN, passive)
	}
	path := filepath.Join(h.dir, n.name+".conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		return err
	}
	return h.run(n, exec.CommandContext(h.ctx, "bird", "-f", "-c", path, "-s", filepath.Join(h.dir, n.name+".ctl")))
}
