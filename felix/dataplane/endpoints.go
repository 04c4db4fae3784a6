package dataplane

import "tortie/felix/calc"

// endpoints merges what the CNI calls say of this node's endpoints with what the
// datastore says. It is pure.
//
// The datastore is the truth. A CNI call is ahead of it for a while, and only
// for the endpoint and container it was about:
//   - an endpoint that was added holds until the datastore shows that container;
//   - one that was removed stays away for as long as the datastore still shows
//     that container: its deletion may wait in the journal for etcd to come back.
type endpoints struct {
	stored  map[calc.EndpointID]calc.Endpoint
	added   map[calc.EndpointID]calc.Endpoint
	removed map[calc.EndpointID]string // → container ID
}

func newEndpoints() endpoints {
	return endpoints{
		stored:  map[calc.EndpointID]calc.Endpoint{},
		added:   map[calc.EndpointID]calc.Endpoint{},
		removed: map[calc.EndpointID]string{},
	}
}

// add takes in a CNI ADD.
func (e *endpoints) add(ep calc.Endpoint) {
	e.added[ep.ID] = ep
	if e.removed[ep.ID] == ep.ContainerID {
		delete(e.removed, ep.ID)
	}
}

// remove takes in a CNI DEL of one container; an empty container ID stands for
// whichever there is. It returns the endpoint as it was until now, and false when
// there was none or it belongs to another container by now.
func (e *endpoints) remove(id calc.EndpointID, container string) (calc.Endpoint, bool) {
	old, ok := e.get(id)
	if container == "" {
		container = old.ContainerID
	}
	e.removed[id] = container
	if added, has := e.added[id]; has && added.ContainerID == container {
		delete(e.added, id)
	}
	return old, ok && old.ContainerID == container
}

// store takes in what the datastore says. As long as that is not complete, it
// settles nothing: what a CNI call said is forgotten only when all is known.
func (e *endpoints) store(stored map[calc.EndpointID]calc.Endpoint, complete bool) {
	e.stored = stored
	if !complete {
		return
	}
	for id, ep := range e.added {
		if shown, ok := stored[id]; ok && shown.ContainerID == ep.ContainerID {
			delete(e.added, id)
		}
	}
	for id, container := range e.removed {
		if shown, ok := stored[id]; !ok || shown.ContainerID != container {
			delete(e.removed, id)
		}
	}
}

// get is the endpoint as it should be, and whether it should be at all.
func (e *endpoints) get(id calc.EndpointID) (calc.Endpoint, bool) {
	if ep, ok := e.added[id]; ok {
		return ep, true
	}
	ep, ok := e.stored[id]
	if !ok {
		return calc.Endpoint{}, false
	}
	if container, gone := e.removed[id]; gone && container == ep.ContainerID {
		return calc.Endpoint{}, false
	}
	return ep, true
}

// want reports whether an endpoint that should be has the interface.
func (e *endpoints) want(iface string) (wanted bool) {
	e.all(func(ep calc.Endpoint, _ bool) { wanted = wanted || ep.Interface == iface })
	return wanted
}

// all calls f for every endpoint that should be, in no order; fresh tells the ones
// that only a CNI call has spoken of.
func (e *endpoints) all(f func(ep calc.Endpoint, fresh bool)) {
	for id, ep := range e.stored {
		if _, newer := e.added[id]; newer {
			continue
		}
		if container, gone := e.removed[id]; !gone || container != ep.ContainerID {
			f(ep, false)
		}
	}
	for _, ep := range e.added {
		f(ep, true)
	}
}
