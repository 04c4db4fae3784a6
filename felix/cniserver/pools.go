package cniserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tortie/felix/cniserver/netconf"
	"tortie/ipam"
)

// unknownPools turns the failure of an assignment into an error of the
// configuration, or of the pod's annotation, when there is none of the pools that it names:
// that does not pass by itself. When one of them is there, what keeps it from serving may change.
func (a *addition) unknownPools(err error, conf netconf.IPAM) error {
	exhausted, ok := errors.AsType[*ipam.ExhaustedError](err)
	if !ok || !errors.Is(exhausted, ipam.ErrNoPool) {
		return err
	}
	key, requested := "ipam.ipv4_pools", conf.Pools4
	if exhausted.Version == 6 {
		key, requested = "ipam.ipv6_pools", conf.Pools6
	}
	if len(requested) == 0 {
		return err
	}
	for _, name := range requested {
		// A verdict without CIDR is one on a pool that there isn't.
		if !slices.ContainsFunc(exhausted.Pools, func(v ipam.Verdict) bool { return v.Pool == name && v.CIDR == "" && !v.Unread }) {
			return err
		}
	}
	unknown := &netconf.Error{Key: key, Reason: fmt.Sprintf("there is no IP pool %s; see calicoctl get ippools -o wide", strings.Join(requested, ", "))}
	if a.blame != nil {
		return a.blame(exhausted.Version, unknown)
	}
	return unknown
}
