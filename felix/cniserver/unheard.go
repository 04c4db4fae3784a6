package cniserver

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"tortie/felix/cniserver/netconf"
	"tortie/felix/journal"
)

// unheard are the attachments of pods that Kubernetes had not told of at their ADD, so
// that nobody knew what their annotations ask for.
type unheard struct {
	mu   sync.Mutex
	pods map[journal.ID]netconf.Args
}

func (u *unheard) note(id journal.ID, args netconf.Args) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pods == nil {
		u.pods = map[journal.ID]netconf.Args{}
	}
	u.pods[id] = args
}

// Unheeded has a line for each pod that is attached without what its annotations ask
// for, by the pod's name.
func (s *Server) Unheeded() map[string]string {
	lines := map[string]string{}
	s.unheard.mu.Lock()
	defer s.unheard.mu.Unlock()
	for id, args := range s.unheard.pods {
		e, ok := s.journal.Get(id)
		if !ok || e.State != journal.StateAttached {
			delete(s.unheard.pods, id)
			continue
		}
		pod, known := s.endpoints.pod(args.K8sNamespace, args.K8sPod, args.K8sUID)
		if !known {
			continue
		}
		annotation := s.unmet(e, pod.Annotations)
		if annotation == "" {
			delete(s.unheard.pods, id)
			continue
		}
		name := args.K8sNamespace + "/" + args.K8sPod
		lines[name] = fmt.Sprintf("pod %s was attached before Kubernetes told felix of it, and so without its annotation cni.projectcalico.org/%s: "+
			"delete the pod, so that it is made anew; with the capability io.kubernetes.cri.pod-annotations the runtime tells felix in time", name, annotation)
	}
	return lines
}

// unmet names an annotation that an attachment doesn't fulfil; empty for none.
func (s *Server) unmet(e journal.Entry, annotations map[string]string) string {
	w, err := netconf.ParseAnnotations(annotations)
	if wrong, ok := err.(*netconf.AnnotationError); ok { //nolint:errorlint // its own, just made
		return wrong.Name
	}
	switch {
	case w.NoIPAM:
		return "ipAddrsNoIpam" // nobody but its ADD could have given it those
	case len(w.Addrs) > 0 && !slices.Equal(w.Addrs, e.Addrs):
		return "ipAddrs"
	case w.MAC != "" && w.MAC != e.MAC:
		return "hwAddr"
	case !slices.Equal(w.Sources, e.Sources):
		return "allowedSourcePrefixes"
	case !slices.Equal(w.Floating, e.Floating):
		return "floatingIPs"
	case w.Pools4 != nil && s.outside(e.Addrs, 4, w.Pools4):
		return "ipv4pools"
	case w.Pools6 != nil && s.outside(e.Addrs, 6, w.Pools6):
		return "ipv6pools"
	case slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return w.Families != nil && !slices.Contains(w.Families, ipVersion(a)) }):
		return "ipFamilies"
	}
	return ""
}

// outside reports whether an address of an IP version is in none of some pools.
func (s *Server) outside(addrs []netip.Addr, wantedVersion int, wanted []string) bool {
	pools := s.state.poolsOf(wantedVersion, wanted)
	for _, addr := range addrs {
		inside := false
		for _, pool := range pools {
			cidr, err := netip.ParsePrefix(pool.Spec.CIDR)
			inside = inside || err == nil && cidr.Contains(addr)
		}
		if ipVersion(addr) == wantedVersion && !inside {
			return true
		}
	}
	return false
}

func ipVersion(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}
