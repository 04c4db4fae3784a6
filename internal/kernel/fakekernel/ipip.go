package fakekernel

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"tortie/internal/kernel"
)

// WithoutIPIP takes the module away, as long as it has made no device.
func (k *Kernel) WithoutIPIP() {
	k.machine.mu.Lock()
	defer k.machine.mu.Unlock()
	k.noIPIP = true
}

// fallbackName is what the kernel calls the device of IPIP for all other ends.
const fallbackName = "tunl0"

// CreateDevice is [kernel.Handle.CreateDevice], for the kind ipip alone: the first call
// loads the module, which makes the one device for all other ends by itself.
func (k *Kernel) CreateDevice(name, kind string) (link kernel.Link, err error) {
	err = k.do("create device", fmt.Sprintf("%s of kind %s", name, kind), func() error {
		if kind != "ipip" || k.noIPIP {
			return unix.EOPNOTSUPP
		}
		if k.fallback == 0 && k.byName(fallbackName) == nil {
			l := k.newLink(fallbackName, kernel.MAC{}, 1480)
			l.Kind, l.MAC = kind, kernel.MAC{}
			k.fallback, k.ipips[l.Index] = l.Index, kernel.IPIP{}
			k.tell(kernel.LinkEvents, kernel.LinkEvent{Link: *l})
		}
		return unix.EEXIST
	})
	return link, err
}

// IPIP is [kernel.Handle.IPIP].
func (k *Kernel) IPIP(index int) (d kernel.IPIP, err error) {
	err = k.do("read ipip", strconv.Itoa(index), func() error {
		if k.links[index] == nil {
			return unix.ENODEV
		}
		var ok bool
		if d, ok = k.ipips[index]; !ok {
			return unix.EINVAL
		}
		return nil
	})
	return d, err
}
