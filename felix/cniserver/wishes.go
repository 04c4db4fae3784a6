package cniserver

import (
	"errors"
	"net/netip"
	"slices"

	"tortie/felix/cniserver/netconf"
	"tortie/internal/api"
	"tortie/internal/podendpoint"
)

// heed takes up what the pod asks for in its annotations, and the runtime in CNI_ARGS:
// the call and its entry are then as if the configuration had said so. Annotations are
// those that the runtime hands over, else those that Kubernetes has told of by now;
// nobody waits for them.
func (a *addition) heed() error {
	if a.call.plugin == pluginIPAM {
		a.askFor(a.call.args.IP)
		return nil
	}
	conf := &a.call.conf
	if conf.MAC != "" {
		a.entry.MAC = conf.MAC
	}
	a.askFor(a.call.args.IP)
	annotations, known := a.annotations()
	namespaces, told := a.server.ofNamespace(a.call.args)
	a.unheard = a.call.args.IsPod() && (!known && a.server.endpoints.pod != nil || !told)
	if all := netconf.Overlay(namespaces, annotations); len(all) > 0 {
		wishes, err := netconf.ParseAnnotations(all)
		if err == nil {
			err = a.grant(wishes)
		}
		if err != nil {
			return whose(err, annotations, a.call.args.K8sNamespace)
		}
		a.blame = blameFor(wishes, annotations, a.call.args.K8sNamespace)
	}
	limits, err := a.askedLimits()
	if err != nil {
		return err
	}
	conf.Limits = limits
	return a.askedOfOthers()
}

// annotations are the pod's, where they are known.
func (a *addition) annotations() (all map[string]string, known bool) {
	if all := a.call.conf.Annotations; all != nil {
		return all, true
	}
	pod, known := a.server.endpoints.known(a.call)
	if !known {
		return nil, false
	}
	return pod.Annotations, true
}

// ofNamespace are the annotations of a pod's namespace that are for its pods. told is
// false while Kubernetes has not told of namespaces yet.
func (s *Server) ofNamespace(args netconf.Args) (annotations map[string]string, told bool) {
	if s.namespace == nil || !args.IsPod() {
		return nil, true
	}
	return s.namespace(args.K8sNamespace)
}

// whose completes an error about an annotation that is not the pod's own.
func whose(err error, pod map[string]string, namespace string) error {
	wrong, ok := errors.AsType[*netconf.AnnotationError](err)
	if !ok {
		return err
	}
	name := netconf.AnnotationPrefix + wrong.Name
	if _, own := pod[name]; !own && podendpoint.ReadsOfNamespace(name) {
		wrong.Of = "namespace " + namespace
	}
	return err
}

// blameFor makes what is wrong with the pools of an IP version an error of the annotation
// that names them; the error is the configuration's where none does.
func blameFor(w netconf.Wishes, pod map[string]string, namespace string) func(version int, err *netconf.Error) error {
	return func(version int, err *netconf.Error) error {
		name, asked := "ipv4pools", w.Pools4 != nil
		if version == 6 {
			name, asked = "ipv6pools", w.Pools6 != nil
		}
		if !asked {
			return err
		}
		return whose(&netconf.AnnotationError{Name: name, Reason: err.Reason}, pod, namespace)
	}
}

// askedLimits are the limits that the pod asks for. Its annotations are what counts where
// they are known: the capability is the runtime's view of them.
func (a *addition) askedLimits() (*api.QoSControls, error) {
	annotations, known := a.annotations()
	if !known || !a.call.args.IsPod() {
		return a.call.conf.Limits, nil
	}
	return netconf.ParseLimits(annotations, a.call.conf.OwnBandwidth)
}

// askFor notes an address that is asked for in CNI_ARGS, unless the runtime asked for others
// in a newer way, or another plugin assigns them: that one gets CNI_ARGS, too.
func (a *addition) askFor(addr netip.Addr) {
	if addr.IsValid() && len(a.call.conf.Addrs) == 0 && a.call.delegate == nil {
		a.call.conf.Addrs = []netip.Addr{addr}
	}
}

// grant takes up a pod's annotations. What the runtime asked for (by a capability, in args
// or in CNI_ARGS) goes before them.
func (a *addition) grant(w netconf.Wishes) error {
	conf := &a.call.conf
	if err := a.grantMore(w); err != nil {
		return err
	}
	if w.MAC != "" && conf.MAC == "" {
		a.entry.MAC = w.MAC
	}
	if w.NoIPAM && !conf.NoIPAM {
		return &netconf.AnnotationError{Name: "ipAddrsNoIpam", Reason: `the network configuration does not allow it; add "feature_control": {"ip_addrs_no_ipam": true}`}
	}
	ownAddrs := len(conf.Addrs) == 0
	if len(w.Addrs) > 0 && ownAddrs {
		conf.Addrs = w.Addrs
	}
	if w.NoIPAM && ownAddrs {
		a.entry.Given, a.entry.Addrs, a.entry.IPAM = true, slices.Clone(w.Addrs), nil
		return nil
	}
	if w.Pools4 != nil {
		conf.IPAM.Pools4 = w.Pools4
	}
	if w.Pools6 != nil {
		conf.IPAM.Pools6 = w.Pools6
	}
	if w.Families != nil {
		conf.IPAM.IPv4, conf.IPAM.IPv6 = slices.Contains(w.Families, 4), slices.Contains(w.Families, 6)
	}
	return nil
}

// askedOfOthers refuses an address that felix would have to assign where another plugin
// assigns them: that one hears of it by the capability ips.
func (a *addition) askedOfOthers() error {
	if a.call.delegate == nil || a.entry.Given || len(a.call.conf.Addrs) == 0 {
		return nil
	}
	return &netconf.AnnotationError{Name: "ipAddrs", Reason: "the addresses are those of IPAM plugin " + a.call.delegate.Type + "; ask it by the capability ips, or take ipam.type calico-ipam"}
}
