package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// CreateDevice makes a device of a kind that needs no settings (ipip, wireguard,
// dummy). It is born down. ErrExists when the name is taken, or, of ipip, when the
// namespace has one for all other ends already.
func (h *Handle) CreateDevice(name, kind string) (Link, error) {
	const op = "create device"
	object := fmt.Sprintf("%s of kind %s", name, kind)
	if err := validName(name); err != nil {
		return Link{}, NewError(op, object, err)
	}
	var a attributes
	a.text(unix.IFLA_IFNAME, name)
	info := a.begin(unix.IFLA_LINKINFO)
	a.bytes(unix.IFLA_INFO_KIND, []byte(kind))
	a.end(info)
	req := request{kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, header: linkHeader(0, 0, 0), attrs: a}
	if err := h.exchangeAll([]request{req})[0]; err != nil {
		return Link{}, NewError(op, object, err)
	}
	return h.LinkByName(name)
}
