package topology

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/speaker"
	"tortie/internal/api"
)

// options are what annotations say of sessions.
type options struct {
	bfd       api.BFD
	timers    api.Timers
	longLived time.Duration
	addPath   bool
}

// options reads the annotations of an object. A value that makes no sense costs its
// sessions just what it is about.
func (c *computation) options(kind string, o metav1.Object) options {
	var out options
	annotations := o.GetAnnotations()
	problem := func(annotation string, err error, consequence string) {
		if err != nil {
			c.problem("%s %s: annotation %s: %v; %s", kind, o.GetName(), annotation, err, consequence)
		}
	}
	var err error
	out.bfd, err = api.ParseBFD(annotations[api.AnnotationBFD])
	problem(api.AnnotationBFD, err, "its sessions are without BFD")
	out.timers, err = api.ParseTimers(annotations[api.AnnotationTimers])
	problem(api.AnnotationTimers, err, "its sessions have the default timers")
	out.longLived, err = api.ParseLongLived(annotations[api.AnnotationLongLived])
	problem(api.AnnotationLongLived, err, "its sessions are without long-lived graceful restart")
	out.addPath, err = api.ParseAddPath(annotations[api.AnnotationAddPath])
	problem(api.AnnotationAddPath, err, "its sessions are without add-path")
	c.strangeNames(api.Kind(kind), o)
	return out
}

// strangeNames are annotations and labels that look like ours and mean nothing.
func (c *computation) strangeNames(kind api.Kind, o metav1.Object) {
	for _, text := range api.StrangeNames(kind, o) {
		c.problem("%s %s: %s; it has no effect", kind, o.GetName(), text)
	}
}

// longLived takes long-lived graceful restart from a session that can't have it.
func (c *computation) longLived(what string, p *Peer) {
	because := ""
	switch {
	case p.LongLived == 0:
	case p.RestartTime == 0:
		because = "needs graceful restart, which a restart time of 0 turns off"
	case slices.ContainsFunc(p.Filter.Export, func(r speaker.Rule) bool { return r.Interface != "" }):
		// Such a rule rejects by what only a peer without it takes for a withdrawal.
		because = "can't be combined with an export rule of a BGPFilter that names an interface"
	}
	if because != "" {
		c.problem("%s: annotation %s: %s; its sessions are without long-lived graceful restart", what, api.AnnotationLongLived, because)
		p.LongLived = 0
	}
}

// apply has a session be as the options say.
func (o options) apply(p *Peer) {
	p.BFD, p.AddPath, p.LongLived = o.bfd, o.addPath, o.longLived
	t := o.timers.OrDefault()
	if t == api.DefaultTimers() {
		return
	}
	p.HoldTime, p.KeepaliveTime, p.ConnectRetry = t.Hold, t.Keepalive, t.Connect
}
