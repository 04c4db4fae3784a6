package cniserver

import (
	"net/netip"
	"slices"

	"tortie/felix/cniserver/netconf"
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
	annotations := conf.Annotations
	if annotations == nil {
		pod, known := a.server.endpoints.known(a.call)
		if !known {
			a.unheard = a.call.args.IsPod() && a.server.endpoints.pod != nil
			return a.askedOfOthers()
		}
		annotations = pod.Annotations
	}
	if len(annotations) > 0 {
		wishes, err := netconf.ParseAnnotations(annotations)
		if err == nil {
			err = a.grant(wishes)
		}
		if err != nil {
			return err
		}
	}
	return a.askedOfOthers()
}

// askFor notes an address that is asked for, unless the runtime asked for others by its
// capability.
func (a *addition) askFor(addr netip.Addr) {
	if addr.IsValid() && len(a.call.conf.Addrs) == 0 {
		a.call.conf.Addrs = []netip.Addr{addr}
	}
}

// grant takes up a pod's annotations. What the runtime asked for by a capability goes
// before them.
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
	if len(w.Addrs) > 0 && len(conf.Addrs) == 0 {
		conf.Addrs = w.Addrs
	}
	if w.NoIPAM {
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
