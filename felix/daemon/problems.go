package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tortie/felix/calc"
	"tortie/felix/problems"
	"tortie/felix/registration"
	"tortie/internal/datastore"
	"tortie/internal/kernel/feature"
	"tortie/ipam"
)

// The reasons of problems, as Events have them.
const (
	reasonDatastore    = "DatastoreUnavailable"
	reasonRefused      = "DatastoreRefused"
	reasonNoAddress    = "NoNodeAddress"
	reasonUnregistered = "NodeNotRegistered"
	reasonTunnel       = "NoTunnelAddress"
	reasonWireguard    = "NoWireguard"
	reasonUnencrypted  = "Unencrypted"
	reasonHostsInClear = "HostsUnencrypted"
	reasonKernel       = "KernelUnsupported"
	reasonDataplane    = "DataplaneFailed"
	reasonPodCIDR      = "PodCIDROutsidePools"
	reasonBackend      = "PoolNotCarried"

	reasonUnknownBackend = "UnknownBackend"
	reasonAddresses      = "AddressesRunOut"
	reasonPolicies       = "PoliciesNotEnforced"
	reasonAnnotations    = "AnnotationsUnheeded"
	reasonKubernetes     = "KubernetesAccess"
	reasonObject         = "ObjectNotHonoured"
	reasonEnded          = "FelixFailed"
	reasonConfiguration  = "BadConfiguration"
	reasonListen         = "NotServed"
	reasonForwarding     = "ForwardingOff"
	reasonMTU            = "WrongMTU"
	reasonPathMTU        = "LargePacketsLost"
	reasonAddressTwice   = "AddressOfTwoNodes"
	reasonIPAMConfig     = "IPAMConfigUnreadable"
	reasonReversePath    = "ReversePathChecked"
	reasonNotReleased    = "AddressNotReleased"
)

// sources are those who know what is wrong, the most important first.
func (f *felix) sources() []problems.Source {
	all := []problems.Source{f.kernelCheck, f.datastoreProblem, f.registrationProblem, f.dataplaneProblem, f.upkeep.problems, f.config.problems, f.listeners.problems, f.nodes.problems, f.underlay.problems, f.podMTUProblems, f.pathProblems}
	all = append(all, f.clusterSources()...)
	return append(all, f.tunnelProblem, f.secureProblems, f.ipamConfigProblem, f.addressProblems, f.backendProblem, f.reversePathProblem, f.releaseProblems, f.policyProblem, f.objectProblems)
}

// clusterSources are those who know Kubernetes.
func (f *felix) clusterSources() []problems.Source {
	switch {
	case f.kubernetes != nil:
		return []problems.Source{f.kubernetesProblems, f.podCIDRProblem, f.annotationProblems}
	case f.without != nil:
		return []problems.Source{func() []problems.Problem {
			return problem(reasonKubernetes, "felix goes on without Kubernetes: %v: give its pod a service account (automountServiceAccountToken)", f.without)
		}}
	}
	return nil
}

func problem(reason, format string, args ...any) []problems.Problem {
	return []problems.Problem{{Reason: reason, Line: fmt.Sprintf(format, args...)}}
}

// annotationProblems says which pods came too late to be heeded, or ask for limits that
// can't be.
func (f *felix) annotationProblems() []problems.Problem {
	var all []problems.Problem
	lines := f.server.Unheeded()
	if f.kubernetes != nil {
		maps.Copy(lines, f.kubernetes.keeper.Unheeded())
	}
	for _, pod := range slices.Sorted(maps.Keys(lines)) {
		all = append(all, problems.Problem{Reason: reasonAnnotations, Topic: pod, Line: lines[pod]})
	}
	return all
}

// releaseProblems: an IPAM plugin of others is gone or fails, and the containers that have
// its addresses can't be attached again.
func (f *felix) releaseProblems() []problems.Problem {
	var all []problems.Problem
	lines := f.server.StuckReleases()
	for _, plugin := range slices.Sorted(maps.Keys(lines)) {
		all = append(all, problems.Problem{Reason: reasonNotReleased, Topic: plugin, Line: lines[plugin], Logged: true})
	}
	return all
}

func (f *felix) podMTUProblems() []problems.Problem {
	return f.underlay.now().podProblems(f.server.AskedMTUs(), slices.ContainsFunc(f.desired().PodPools, func(p netip.Prefix) bool { return p.Addr().Is6() }))
}

// statsPatience is how long the look at addresses waits for the allocator.
const statsPatience = 200 * time.Millisecond

// addressProblems warns before addresses run out.
func (f *felix) addressProblems() []problems.Problem {
	ctx, cancel := context.WithTimeout(context.Background(), statsPatience)
	defer cancel()
	var all []problems.Problem
	for _, w := range f.allocator.Stats(ctx).Warnings() {
		all = append(all, problems.Problem{Reason: reasonAddresses, Topic: w.Topic, Line: w.Line})
	}
	return all
}

// ipamConfigProblem: what is stored does not hold, and what does may keep pods from having
// addresses. That it can't be read is logged by the Syncer.
func (f *felix) ipamConfigProblem() []problems.Problem {
	kept, err := f.addressing.ConfigProblem()
	switch {
	case err == nil:
		return nil
	case kept:
		return problem(reasonIPAMConfig, "addresses are given out by the last IPAMConfig that could be read: %s", ipam.ConfigAdvice(err))
	}
	return problem(reasonIPAMConfig, "addresses are given out of the blocks that this node has alone, as nobody knows whether it may claim others or borrow: %s", ipam.ConfigAdvice(err))
}

// kernelCheck says what the kernel can't do that no pod can do without.
func (f *felix) kernelCheck() []problems.Problem {
	if missing := f.missing(); missing != nil {
		return problem(reasonKernel, "%v", missing)
	}
	return nil
}

// checkKernel is nil if pods can be wired with this kernel. What outgoing NAT needs
// is told by the dataplane, where a pool asks for it.
func checkKernel(probe func(feature.Feature) error) error {
	for _, needed := range []struct {
		feature feature.Feature
		advice  string
	}{
		{feature.Netns, "run felix as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, on a kernel with CONFIG_NET_NS"},
		{feature.Veth, "load the module (modprobe veth), or take a kernel that has it"},
	} {
		if err := probe(needed.feature); err != nil {
			return fmt.Errorf("the kernel (%s) doesn't do %s, so no pod can be attached: %w: %s", feature.Release(), needed.feature, err, needed.advice)
		}
	}
	return nil
}

// untilNil asks until the answer is nil: what the kernel can do stays so.
func untilNil(ask func() error) func() error {
	var mu sync.Mutex
	done := false
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return nil
		}
		err := ask()
		done = err == nil
		return err
	}
}

// datastoreProblem names the endpoint and the file that are wrong, as far as etcd's
// client can tell. While felix waits at its start it is repeated in the log; later the
// Syncer has said that the datastore was lost.
func (f *felix) datastoreProblem() []problems.Problem {
	err := f.syncer.Health()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, datastore.ErrUnauthorized):
		return problem(reasonRefused, "%v", err)
	case f.state.InSync():
		return logged(problem(reasonDatastore, "%s: going on with what is known; pods can't be added meanwhile", withAdvice(err)))
	default:
		return problem(reasonDatastore, "waiting for the datastore: %s", withAdvice(err))
	}
}

// withAdvice adds where to look, unless the error says it.
func withAdvice(err error) string {
	if text := err.Error(); strings.Contains(text, "ETCD_") {
		return text
	}
	return err.Error() + ": look whether etcd runs and can be reached there, and at ETCD_ENDPOINTS"
}

func (f *felix) registrationProblem() []problems.Problem {
	err := f.registrar.Problem()
	switch {
	case f.saidElsewhere(err):
		return nil
	case errors.Is(err, registration.ErrNoAddress):
		return logged(problem(reasonNoAddress, "%v: set IP, or IP_AUTODETECTION_METHOD, to what the node has", err))
	default:
		return logged(problem(reasonUnregistered, "%v", err))
	}
}

// saidElsewhere: nothing is wrong, or another problem is the cause and is reported: the
// datastore is away, or an object can't be read that is among the problems of objects.
func (f *felix) saidElsewhere(err error) bool {
	if err == nil || errors.Is(err, datastore.ErrUnavailable) || errors.Is(err, datastore.ErrUnauthorized) {
		return true
	}
	invalid, ok := errors.AsType[*datastore.Invalid](err)
	return ok && slices.ContainsFunc(f.desired().Problems, func(p calc.Problem) bool { return p.Unread && p.Key == invalid.Key })
}

// barred is why no pod may come here though the Node may be there: packets for this
// node's pods go to another, which has the address and works on.
func (f *felix) barred() error {
	if err := f.registrar.Problem(); errors.Is(err, registration.ErrAddressTaken) {
		return err
	}
	return nil
}

func (f *felix) tunnelProblem() []problems.Problem {
	err := f.endpoint.Problem()
	if f.barred() != nil {
		return nil // it follows from that
	}
	if f.saidElsewhere(err) {
		return nil
	}
	return logged(problem(reasonTunnel, "this node has no part in an overlay, and its packets go without: %v", err))
}

// secureProblems: packets that could be encrypted and are not.
func (f *felix) secureProblems() []problems.Problem {
	var out []problems.Problem
	if err := f.keys.Problem(); !f.saidElsewhere(err) && f.barred() == nil {
		out = logged(problem(reasonWireguard, "this node has no part in WireGuard, and its packets go unencrypted: %v", err))
	}
	if left := f.desired().Unsecured; len(left) > 0 {
		out = append(out, problem(reasonUnencrypted, "packets to %d nodes go unencrypted, though WireGuard is on here: %s: look at felix there, and whether wireguardEnabled is set for it", len(left), first(left, 3))...)
	}
	if left := f.tunnels.WireGuard.Unmet(); len(left) > 0 {
		out = append(out, problem(reasonHostsInClear, "what this node itself sends to %d nodes goes unencrypted, though wireguardHostEncryptionEnabled is set here: they have a key and do not answer by WireGuard: %s: look at felix there, and let UDP pass to wireguardListeningPort", len(left), first(left, 3))...)
	}
	return out
}

// first is the beginning of a list.
func first(list []string, most int) string {
	if len(list) > most {
		return strings.Join(list[:most], "; ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, "; ")
}

// backendProblem: where bgpd is told to be idle, a pool without an overlay is one whose
// pods reach nobody on other nodes. So it is with a cluster of BGP that the manifest
// with VXLAN was applied to: its pools stay as they are.
func (f *felix) backendProblem() []problems.Problem {
	return backendProblem(f.backend, f.desired())
}

func backendProblem(backend string, s calc.State) []problems.Problem {
	if !slices.Contains([]string{"", "bird", "none", backendVXLAN}, backend) {
		return problem(reasonUnknownBackend, "CALICO_NETWORKING_BACKEND is %q, which bgpd refuses, so this node has no routes to others: make it bird, vxlan or none (calico_backend in the ConfigMap calico-config)", backend)
	}
	left := untunneled(s)
	if backend != backendVXLAN || len(left) == 0 {
		return nil
	}
	return problem(reasonBackend, "CALICO_NETWORKING_BACKEND is vxlan, so there is no BGP, and nothing carries packets between nodes for the IP pools %s, which ask for no overlay on this node: "+
		"set vxlanMode: Always in them with calicoctl, or the backend bird", joined(left))
}

// reversePathProblem: of conf/all's rp_filter and a device's the kernel takes the larger
// one, so the host's can take from pods what felix lets them send.
func (f *felix) reversePathProblem() []problems.Problem {
	value, err := f.kernel.Sysctl("ipv4/conf/all/rp_filter")
	if err != nil {
		return nil // without /proc/sys/net, in which upkeep looks at forwarding and says so
	}
	return reversePathChecked(value, f.desired().Endpoints)
}

func reversePathChecked(value string, endpoints map[calc.EndpointID]calc.Endpoint) []problems.Problem {
	var pods []string
	for _, ep := range endpoints {
		if slices.ContainsFunc(ep.Sources, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
			pods = append(pods, ep.ID.String())
		}
	}
	if value == "0" || len(pods) == 0 {
		return nil
	}
	slices.Sort(pods)
	return problem(reasonReversePath, "net.ipv4.conf.all.rp_filter is %s on this node, so the kernel drops what pods send from their allowedSourcePrefixes (%s): set it to 0 in /etc/sysctl.d; "+
		"felix checks what pods send by itself", value, first(pods, 3))
}

// backendVXLAN is upstream's word for a network without BGP.
const backendVXLAN = "vxlan"

// untunneled are the pools of pods that don't use an overlay on this node.
func untunneled(s calc.State) (left []netip.Prefix) {
	for _, pool := range s.PodPools {
		if !slices.ContainsFunc(s.TunnelPools, func(t calc.TunnelPool) bool { return t.Prefix == pool }) {
			left = append(left, pool)
		}
	}
	return left
}

func (f *felix) dataplaneProblem() []problems.Problem {
	if err := f.loop.Status().LastError; err != nil {
		return logged(problem(reasonDataplane, "routes or rules of this node can't be programmed: %v", err))
	}
	return nil
}

// logged are problems that are in the log already.
func logged(list []problems.Problem) []problems.Problem {
	for i := range list {
		list[i].Logged = true
	}
	return list
}

func (f *felix) kubernetesProblems() []problems.Problem {
	var out []problems.Problem
	for _, err := range f.kubernetes.client.Problems() {
		line := "Kubernetes can't be followed: " + err.Error()
		topic, _, _ := strings.Cut(err.Error(), ":")
		out = append(out, problems.Problem{Reason: reasonKubernetes, Topic: topic, Line: line})
	}
	if err := f.kubernetes.events.Problem(); err != nil {
		// Which can't be told by an Event, and is in the log.
		out = append(out, problems.Problem{Reason: reasonKubernetes, Topic: "events", Line: "Events can't be written: " + err.Error(), Minor: true, Logged: true})
	}
	return out
}

func (f *felix) podCIDRProblem() []problems.Problem {
	outside, pools := outsidePools(f.kubernetes.node.PodCIDRs(), f.desired().PodPools)
	if len(outside) == 0 || f.desired().PoolsUnread {
		return nil
	}
	return problem(reasonPodCIDR, "Kubernetes gives this node the pod addresses %s, which are in no IP pool (%s): kube-proxy and others take these pools' pods for strangers to the cluster; "+
		"make an IP pool of the cluster CIDR, or give Kubernetes the pool's as --cluster-cidr", joined(outside), joined(pools))
}

// outsidePools are the prefixes that no pool overlaps, of families that have pools,
// and those pools.
func outsidePools(cidrs, pools []netip.Prefix) (outside, of []netip.Prefix) {
	for _, cidr := range cidrs {
		var family []netip.Prefix
		for _, pool := range pools {
			if pool.Addr().Is4() == cidr.Addr().Is4() {
				family = append(family, pool)
			}
		}
		if len(family) > 0 && !slices.ContainsFunc(family, cidr.Overlaps) {
			outside, of = append(outside, cidr), append(of, family...)
		}
	}
	return outside, of
}

func joined(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

func (f *felix) policyProblem() []problems.Problem {
	n := f.policies.count()
	if n == 0 {
		return nil
	}
	return problem(reasonPolicies, "network policies are stored but not enforced by this version (there are %d): pods are open to whoever can reach the node; "+
		"filter in the fabric, or in the pods, until they are", n)
}

// objectProblems are logged by the problemLog.
func (f *felix) objectProblems() []problems.Problem {
	var out []problems.Problem
	for _, p := range f.desired().Problems {
		line := p.Key.String() + ": " + p.Reason
		out = append(out, problems.Problem{Reason: reasonObject, Topic: line, Line: line, Minor: true, Logged: true})
	}
	return out
}

// desired is the last state that was handed to the dataplane.
func (f *felix) desired() calc.State {
	if s := f.programmed.Load(); s != nil {
		return *s
	}
	return calc.State{}
}
