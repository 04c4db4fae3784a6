package gobgp

import (
	"context"
	"fmt"
	"net/netip"

	gobgpapi "github.com/osrg/gobgp/v3/api"

	"tortie/bgpd/speaker"
)

// AdjIn implements speaker.Speaker. GoBGP is not asked which paths its policies
// refuse: to find that out it writes what they make of each path into the table.
func (s *Speaker) AdjIn(ctx context.Context, peer netip.Addr, prefix netip.Prefix) ([]speaker.Path, error) {
	return s.adj(ctx, gobgpapi.TableType_ADJ_IN, peer, prefix)
}

// AdjOut implements speaker.Speaker.
func (s *Speaker) AdjOut(ctx context.Context, peer netip.Addr, prefix netip.Prefix) ([]speaker.Path, error) {
	return s.adj(ctx, gobgpapi.TableType_ADJ_OUT, peer, prefix)
}

func (s *Speaker) adj(ctx context.Context, table gobgpapi.TableType, peer netip.Addr, prefix netip.Prefix) ([]speaker.Path, error) {
	peers, _, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	if _, ok := peers[peer]; !ok {
		return nil, nil // one that could not be configured must not hide what the others say
	}
	req := &gobgpapi.ListPathRequest{TableType: table, Name: peer.String(), Family: familyOf(peer), Prefixes: lookup(prefix)}
	var out []speaker.Path
	err = s.server.ListPath(ctx, req, func(d *gobgpapi.Destination) {
		for _, p := range d.Paths {
			if path, err := pathFromAPI(p); err == nil {
				out = append(out, path)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list BGP routes of peer %s: %w", peer, err)
	}
	sortByPrefix(out)
	return out, nil
}

// lookup asks for one prefix, or for all when it is not valid.
func lookup(prefix netip.Prefix) []*gobgpapi.TableLookupPrefix {
	if !prefix.IsValid() {
		return nil
	}
	return []*gobgpapi.TableLookupPrefix{{Prefix: prefix.String()}}
}
