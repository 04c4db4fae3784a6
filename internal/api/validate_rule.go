package api

import (
	"net/netip"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
)

// IP protocol numbers that rules treat specially.
const (
	protocolICMP    = 1
	protocolTCP     = 6
	protocolUDP     = 17
	protocolICMPv6  = 58
	protocolSCTP    = 132
	protocolUDPLite = 136
)

// protocolNumber reads a protocol by name, in the case Calico uses, or number.
func protocolNumber(p Protocol) (int, bool) {
	if p.Type == numorstring.NumOrStringNum {
		return int(p.NumVal), p.NumVal > 0
	}
	switch p.StrVal {
	case "TCP":
		return protocolTCP, true
	case "UDP":
		return protocolUDP, true
	case "ICMP":
		return protocolICMP, true
	case "ICMPv6":
		return protocolICMPv6, true
	case "SCTP":
		return protocolSCTP, true
	case "UDPLite":
		return protocolUDPLite, true
	}
	n, err := p.NumValue()
	return int(n), err == nil && n > 0
}

// protocol checks an optional protocol and gives its number, 0 when not given or
// wrong.
func (c *checker) protocol(field string, p *Protocol) int {
	if p == nil {
		return 0
	}
	n, ok := protocolNumber(*p)
	if !ok {
		c.bad(field, p.String(), "want TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255")
	}
	return n
}

// ruleChecker checks one rule.
type ruleChecker struct {
	*checker
	field    string
	protocol int // 0 when any
	family   int // the one that the rule is bound to, 0 when any
	boundBy  string
}

// rules checks a list of rules; egress tells their direction.
func (c *checker) rules(field string, rules []v3.Rule, egress bool) {
	for i := range rules {
		r := ruleChecker{checker: c, field: at(field, i)}
		r.check(&rules[i], egress)
	}
}

func (r *ruleChecker) check(rule *v3.Rule, egress bool) {
	if rule.Action == "" {
		r.missing(r.field+".action", "is missing, want one of Allow, Deny, Log, Pass")
	}
	oneOf(r.checker, r.field+".action", rule.Action, v3.Allow, v3.Deny, v3.Log, v3.Pass)
	r.protocol = r.checker.protocol(r.field+".protocol", rule.Protocol)
	r.checker.protocol(r.field+".notProtocol", rule.NotProtocol)
	if v := rule.IPVersion; v != nil {
		if *v != 4 && *v != 6 {
			r.bad(r.field+".ipVersion", *v, "want 4 or 6")
		} else {
			r.bind(*v, "ipVersion", r.field+".ipVersion")
		}
	}
	switch r.protocol {
	case protocolICMP:
		r.bind(4, "protocol ICMP", r.field+".protocol")
	case protocolICMPv6:
		r.bind(6, "protocol ICMPv6", r.field+".protocol")
	}
	r.icmp(".icmp", rule.ICMP)
	r.icmp(".notICMP", rule.NotICMP)
	r.entity(r.field+".source", &rule.Source, egress)
	r.entity(r.field+".destination", &rule.Destination, !egress)
	r.http(rule.HTTP)
}

// bind notes that the rule matches one IP family only. A rule bound to both would
// match nothing.
func (r *ruleChecker) bind(family int, by, field string) {
	if r.family != 0 && r.family != family {
		r.missing(field, "is for IPv%d, but %s binds the rule to IPv%d; make two rules", family, r.boundBy, r.family)
		return
	}
	r.family, r.boundBy = family, by
}

func (r *ruleChecker) icmp(name string, f *v3.ICMPFields) {
	if f == nil {
		return
	}
	field := r.field + name
	if r.protocol != protocolICMP && r.protocol != protocolICMPv6 {
		r.missing(field, "needs protocol ICMP or ICMPv6")
	}
	between(r.checker, field+".type", f.Type, 0, 254)
	between(r.checker, field+".code", f.Code, 0, 255)
	if f.Code != nil && f.Type == nil {
		r.missing(field+".type", "is required with code, want 0 to 254")
	}
}

// entity checks one side of a rule; remote tells whether it is the one that
// names a service's ports (the destination of egress, the source of ingress).
func (r *ruleChecker) entity(field string, e *v3.EntityRule, local bool) {
	r.nets(field+".nets", e.Nets)
	r.nets(field+".notNets", e.NotNets)
	r.selector(field+".selector", e.Selector)
	r.selector(field+".notSelector", e.NotSelector)
	if s := r.parseSelector(field+".namespaceSelector", e.NamespaceSelector); s != nil && s.UsesGlobal() && s.String() != "global()" {
		r.bad(field+".namespaceSelector", e.NamespaceSelector, "global() must stand alone")
	}
	r.ports(field+".ports", e.Ports)
	r.ports(field+".notPorts", e.NotPorts)
	if e.ServiceAccounts != nil {
		r.names(field+".serviceAccounts.names", e.ServiceAccounts.Names)
		r.selector(field+".serviceAccounts.selector", e.ServiceAccounts.Selector)
	}
	if e.Services != nil {
		r.services(field, e, local)
	}
}

func (r *ruleChecker) services(field string, e *v3.EntityRule, local bool) {
	r.name(field+".services.name", e.Services.Name)
	r.optionalName(field+".services.namespace", e.Services.Namespace)
	if local {
		r.missing(field+".services", "is only allowed in the source of ingress and the destination of egress rules")
	}
	if e.Selector != "" || e.NotSelector != "" || e.NamespaceSelector != "" || len(e.Nets) > 0 || len(e.NotNets) > 0 || e.ServiceAccounts != nil {
		r.missing(field+".services", "can't be combined with nets, notNets, selector, notSelector, namespaceSelector or serviceAccounts")
	}
	if strings.HasSuffix(field, ".destination") && (len(e.Ports) > 0 || len(e.NotPorts) > 0) {
		r.missing(field+".services", "can't be combined with ports or notPorts: the ports are the service's")
	}
}

func (r *ruleChecker) nets(field string, nets []string) {
	for i, text := range nets {
		prefix, ok := r.network(at(field, i), text, 0)
		if ok {
			r.bind(familyOf(prefix), at(field, i), at(field, i))
		}
	}
}

func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 4
	}
	return 6
}

func (r *ruleChecker) ports(field string, ports []numorstring.Port) {
	if len(ports) == 0 {
		return
	}
	if r.protocol != protocolTCP && r.protocol != protocolUDP && r.protocol != protocolSCTP {
		r.missing(field, "ports need a protocol that has them: set %s.protocol to TCP, UDP or SCTP", r.field)
	}
	for i, port := range ports {
		r.port(at(field, i), port)
	}
}

// port checks a port, a range of them or a named port.
func (c *checker) port(field string, p numorstring.Port) {
	switch {
	case p.PortName != "":
		c.portName(field, p.PortName)
	case p.MinPort == 0:
		c.bad(field, p.String(), "want a port from 1 to 65535, a range such as 8080:8090 or the name of a port")
	case p.MinPort > p.MaxPort:
		c.bad(field, p.String(), "the first port of a range must not be more than the last")
	}
}

func (r *ruleChecker) http(m *v3.HTTPMatch) {
	if m == nil {
		return
	}
	field := r.field + ".http"
	if r.protocol != 0 && r.protocol != protocolTCP {
		r.missing(field, "needs protocol TCP, or none")
	}
	unique(r.checker, field+".methods", m.Methods)
	for i, path := range m.Paths {
		at := at(field+".paths", i)
		switch {
		case (path.Exact == "") == (path.Prefix == ""):
			r.missing(at, "want either exact or prefix")
		case !strings.HasPrefix(path.Exact+path.Prefix, "/"):
			r.bad(at, path.Exact+path.Prefix, "a path starts with a slash")
		case strings.ContainsAny(path.Exact+path.Prefix, "?#"):
			r.bad(at, path.Exact+path.Prefix, "a path has no query and no fragment")
		}
	}
}
