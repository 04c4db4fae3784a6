package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tortie/bgpd/speaker"
)

// floatingTwice names the floating addresses of this node's pods that somebody else
// announces as well. Their pods are on nodes that don't know of one another, so only the
// routes tell; of two nodes behind a reflector one may not hear of the other.
func (s *statusService) floatingTwice(ctx context.Context, v view) ([]string, error) {
	var out []string
	for p, pod := range v.plan.Floating {
		paths, err := s.engine.speaker.Routes(ctx, p)
		if err != nil {
			return nil, err
		}
		var others []string
		for _, path := range paths {
			if !path.Local() {
				others = append(others, v.announcer(path))
			}
		}
		if slices.Sort(others); len(others) > 0 {
			out = append(out, fmt.Sprintf("floating address %s of pod %s on this node is announced by %s, too, and packets go to the one or the other: "+
				"take it out of one of the two pods (calicoctl get wep -A -o yaml: spec.ipNATs)", p.Addr(), pod, strings.Join(slices.Compact(others), ", ")))
		}
	}
	slices.Sort(out)
	return out, nil
}

// announcer is who announces a path, also where a reflector has passed it on.
func (v view) announcer(p speaker.Path) string {
	name := func(a netip.Addr) string { return cmp.Or(v.names[a].Node, v.names[a].Name) }
	if who := cmp.Or(name(p.NextHop), name(p.Peer)); who != "" {
		return fmt.Sprintf("%s (%s)", who, p.NextHop)
	}
	return p.NextHop.String()
}
