package autotopology

import (
	"fmt"
	"reflect"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

// forward is the next step to reflectors, and what keeps them as they should be. What it
// requires is in waits and asks: with any of those the step must not be made.
func (c *cluster) forward() *Step {
	if step := c.peering(); step != nil {
		return step
	}
	for _, m := range c.nodes {
		if c.chosen[m] && !m.labelled {
			c.answers(m)
			return c.label(m)
		}
	}
	acting := c.those(func(m *member) bool { return m.acting })
	for _, m := range c.nodes {
		if c.chosen[m] && !m.acting {
			c.settled(append(acting, m)...)
			return c.setCluster(m)
		}
	}
	if c.mesh {
		if c.settled(acting...); len(c.asks)+len(c.waits) == 0 { // only then is it worth asking everybody
			c.settled(c.nodes...)
			c.withoutMesh()
		}
		return c.meshOff()
	}
	for _, m := range c.nodes {
		if m.labelled && !c.chosen[m] {
			return c.retire(m, acting)
		}
	}
	return nil
}

// retire is the next step for a reflector that is one no more.
func (c *cluster) retire(m *member, acting []*member) *Step {
	if m.acting {
		c.settled(acting...)
		if c.lost(m) {
			return c.clear(m, true)
		}
		return c.clear(m, false)
	}
	c.settled(c.nodes...)
	c.withoutSessionsOf(m)
	return c.clear(m, true)
}

// back is the next step to the mesh.
func (c *cluster) back() *Step {
	if c.switchedOff {
		return c.meshOn()
	}
	ours := c.those(func(m *member) bool { return m.labelled })
	if len(ours) == 0 && !c.ownPeer() {
		return c.forget()
	}
	c.settled(c.nodes...)
	c.withoutReflectors()
	if len(ours) > 0 {
		return c.clear(ours[0], true)
	}
	return c.write(Delete, c.peer, "delete BGPPeer "+c.peer.Name)
}

// forget takes the settings away when there is nothing left to be taken back.
func (c *cluster) forget() *Step {
	if !c.settings.Off {
		return nil
	}
	conf := c.in.Config.DeepCopy()
	delete(conf.Annotations, api.AnnotationAutoTopology)
	return c.write(Update, conf, "take the settings of auto-topology away")
}

func (c *cluster) those(which func(*member) bool) (out []*member) {
	for _, m := range c.nodes {
		if which(m) {
			out = append(out, m)
		}
	}
	return out
}

// write is a Step that depends on all that has a part in it.
func (c *cluster) write(verb Verb, obj api.Object, what string) *Step {
	s := &Step{Verb: verb, Object: obj, What: what}
	depend := func(o api.Object, name string) {
		if obj.GetName() != name || reflect.TypeOf(o) != reflect.TypeOf(obj) {
			s.DependsOn = append(s.DependsOn, o)
		}
	}
	if c.in.Config != nil {
		depend(c.in.Config, c.in.Config.Name)
	}
	if c.peer != nil {
		depend(c.peer, c.peer.Name)
	}
	for _, m := range c.nodes {
		if m.labelled {
			depend(m.Node, m.Name)
		}
	}
	return s
}

// peering makes the BGPPeer: between nodes with the label and all others, with the
// settings of the mesh, so that a session which changes from one to the other goes on.
func (c *cluster) peering() *Step {
	var p *v3.BGPPeer
	verb, what := Update, "give BGPPeer %s the settings of the mesh"
	if c.peer == nil {
		verb, what = Create, "create BGPPeer %s"
		p = v3.NewBGPPeer()
		p.ObjectMeta = metav1.ObjectMeta{Name: api.AutoTopologyPeer}
	} else {
		p = c.peer.DeepCopy()
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[api.AnnotationAutoTopology] = "true"
	p.Spec.NodeSelector = "all()"
	p.Spec.PeerSelector = fmt.Sprintf("%s == 'true'", api.LabelRouteReflector)
	// Without a mesh they have no place in the BGPConfiguration: then these are the ones.
	if conf := c.in.Config; c.mesh && conf != nil {
		p.Spec.Password, p.Spec.MaxRestartTime = conf.Spec.NodeMeshPassword, conf.Spec.NodeMeshMaxRestartTime
		for _, name := range api.SessionAnnotations() {
			delete(p.Annotations, name)
			if value := conf.Annotations[name]; value != "" {
				p.Annotations[name] = value
			}
		}
	}
	if c.peer != nil && reflect.DeepEqual(p.Spec, c.peer.Spec) && reflect.DeepEqual(p.Annotations, c.peer.Annotations) {
		return nil
	}
	return c.write(verb, p, fmt.Sprintf(what, p.Name))
}

func (c *cluster) label(m *member) *Step {
	n := m.DeepCopyObject().(*api.Node)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[api.LabelRouteReflector] = "true"
	return c.write(Update, n, fmt.Sprintf("give node %s the label %s, by which all nodes peer with it", m.Name, api.LabelRouteReflector))
}

func (c *cluster) setCluster(m *member) *Step {
	n := m.DeepCopyObject().(*api.Node)
	n.Spec.BGP.RouteReflectorClusterID = c.settings.ClusterID
	return c.write(Update, n, fmt.Sprintf("make node %s a route reflector, with the cluster ID %s", m.Name, c.settings.ClusterID))
}

// clear makes a node no reflector, and then takes its label away, too.
func (c *cluster) clear(m *member, label bool) *Step {
	n := m.DeepCopyObject().(*api.Node)
	n.Spec.BGP.RouteReflectorClusterID = ""
	if !label {
		return c.write(Update, n, fmt.Sprintf("make node %s no route reflector any more", m.Name))
	}
	delete(n.Labels, api.LabelRouteReflector)
	what := "take the label %[2]s of node %[1]s away"
	if m.acting {
		what = "make node %[1]s no route reflector any more, and take its label %[2]s away"
	}
	return c.write(Update, n, fmt.Sprintf(what, m.Name, api.LabelRouteReflector))
}

func (c *cluster) meshOff() *Step {
	conf := c.in.Config.DeepCopy()
	off := false
	conf.Spec.NodeToNodeMeshEnabled = &off
	// They may not stand there without a mesh; the BGPPeer has them.
	conf.Spec.NodeMeshPassword, conf.Spec.NodeMeshMaxRestartTime = nil, nil
	conf.Annotations[api.AnnotationAutoTopologyMesh] = "off"
	return c.write(Update, conf, "switch the node-to-node mesh off")
}

func (c *cluster) meshOn() *Step {
	conf := c.in.Config.DeepCopy()
	on := true
	conf.Spec.NodeToNodeMeshEnabled = &on
	if c.ownPeer() {
		conf.Spec.NodeMeshPassword, conf.Spec.NodeMeshMaxRestartTime = c.peer.Spec.Password, c.peer.Spec.MaxRestartTime
	}
	delete(conf.Annotations, api.AnnotationAutoTopologyMesh)
	return c.write(Update, conf, "switch the node-to-node mesh on")
}
