package fakekernel

import (
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// CreateVxlan is [kernel.Handle.CreateVxlan].
func (k *Kernel) CreateVxlan(spec kernel.VxlanSpec) (link kernel.Link, err error) {
	err = k.do("create vxlan", spec.String(), func() error {
		if err := spec.Validate(); err != nil {
			return err
		}
		if k.byName(spec.Name) != nil {
			return unix.EEXIST
		}
		for _, other := range k.vxlans {
			if other.VNI == spec.VNI && other.Port == spec.Port && kernel.FamilyOf(other.Local) == kernel.FamilyOf(spec.Local) {
				return unix.EEXIST
			}
		}
		mtu := spec.MTU
		if mtu == 0 {
			mtu = defaultMTU
		}
		l := k.newLink(spec.Name, spec.MAC, mtu)
		l.Kind = "vxlan"
		k.vxlans[l.Index] = spec.Vxlan
		k.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *l})
		link = *l
		return nil
	})
	return link, err
}

// Vxlan is [kernel.Handle.Vxlan].
func (k *Kernel) Vxlan(index int) (v kernel.Vxlan, err error) {
	err = k.do("read vxlan", strconv.Itoa(index), func() error {
		if k.links[index] == nil {
			return unix.ENODEV
		}
		var ok bool
		if v, ok = k.vxlans[index]; !ok {
			return unix.EINVAL
		}
		return nil
	})
	return v, err
}

// SetFDB is [kernel.Handle.SetFDB].
func (k *Kernel) SetFDB(e kernel.FDBEntry) error {
	return k.do("set fdb entry", e.String(), func() error {
		if k.links[e.Link] == nil {
			return unix.ENODEV
		}
		if v, ok := k.vxlans[e.Link]; ok && kernel.FamilyOf(v.Local) != kernel.FamilyOf(e.Remote) {
			return unix.EAFNOSUPPORT
		}
		k.dropFDB(e.Link, e.MAC)
		k.fdb = append(k.fdb, e)
		return nil
	})
}

// DeleteFDB is [kernel.Handle.DeleteFDB].
func (k *Kernel) DeleteFDB(link int, mac kernel.MAC) error {
	return k.do("delete fdb entry", fmt.Sprintf("%s of link %d", mac, link), func() error {
		k.dropFDB(link, mac)
		return nil
	})
}

func (k *Kernel) dropFDB(link int, mac kernel.MAC) {
	k.fdb = slices.DeleteFunc(k.fdb, func(e kernel.FDBEntry) bool { return e.Link == link && e.MAC == mac })
}

// FDB is [kernel.Handle.FDB].
func (k *Kernel) FDB(link int) (out []kernel.FDBEntry, err error) {
	err = k.do("read fdb of link", strconv.Itoa(link), func() error {
		for _, e := range k.fdb {
			if e.Link == link {
				out = append(out, e)
			}
		}
		return nil
	})
	return out, err
}
