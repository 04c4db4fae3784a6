package api

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/felixsetting"
)

// felixRule checks the value of one field of a FelixConfiguration that is set.
type felixRule func(c *checker, field string, v reflect.Value)

// checkFelixConfiguration walks the fields that are set. What follows from a
// field's type is checked for all of that type; the rest by felixRules.
func checkFelixConfiguration(c *checker, f *v3.FelixConfiguration) {
	rules := felixRules()
	spec := reflect.ValueOf(&f.Spec).Elem()
	for i := range spec.NumField() {
		name, _, _ := strings.Cut(spec.Type().Field(i).Tag.Get("json"), ",")
		v := spec.Field(i)
		if v.IsZero() {
			continue
		}
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		field := "spec." + name
		c.felixType(field, v.Interface())
		if rule := rules[name]; rule != nil {
			rule(c, field, v)
		}
	}
	c.felixRanges(&f.Spec)
	c.felixDistinct(&f.Spec)
}

// felixDistinct refuses what something else of the same node has, as far as one resource
// can tell.
func (c *checker) felixDistinct(s *v3.FelixConfigurationSpec) {
	d := felixsetting.Distinct{
		WireguardPort4: uint16(felixsetting.DefaultWireguardPort4), WireguardPort6: uint16(felixsetting.DefaultWireguardPort6),
		WireguardName4: felixsetting.DefaultWireguardName4, WireguardName6: felixsetting.DefaultWireguardName6,
	}
	if s.VXLANEnabled == nil || *s.VXLANEnabled {
		d.VXLANPort = felixsetting.DefaultVXLANPort
		setPort(&d.VXLANPort, s.VXLANPort)
	}
	setPort(&d.WireguardPort4, s.WireguardListeningPort)
	setPort(&d.WireguardPort6, s.WireguardListeningPortV6)
	d.WireguardName4 = cmp.Or(s.WireguardInterfaceName, d.WireguardName4)
	d.WireguardName6 = cmp.Or(s.WireguardInterfaceNameV6, d.WireguardName6)
	for _, clash := range d.Settle() {
		c.bad("spec."+clash.Field, clash.Value, "%s; want another", clash.Reason)
	}
}

// setPort takes a port that is one: others are refused by themselves.
func setPort(port *uint16, given *int) {
	if given != nil && *given > 0 && *given <= math.MaxUint16 {
		*port = uint16(*given)
	}
}

// felixType checks what holds for every field of a type.
func (c *checker) felixType(field string, v any) {
	switch v := v.(type) {
	case metav1.Duration:
		c.duration(field, &v, 0)
	case numorstring.Port:
		c.numericPort(field, v)
	case []numorstring.Port:
		for i, p := range v {
			c.numericPort(at(field, i), p)
		}
	case []v3.ProtoPort:
		for i, p := range v {
			c.protoPort(at(field, i), p)
		}
	case []v3.HealthTimeoutOverride:
		for i, o := range v {
			if o.Name == "" {
				c.missing(at(field, i)+".name", "is missing")
			}
			c.duration(at(field, i)+".timeout", &o.Timeout, 0)
		}
	case v3.BPFConntrackTimeouts:
		c.conntrackTimeouts(field, v)
	}
}

func (c *checker) numericPort(field string, p numorstring.Port) {
	if p.PortName != "" {
		c.bad(field, p.PortName, "want a port from 1 to 65535 or a range such as 30000:32767")
		return
	}
	c.port(field, p)
}

func (c *checker) protoPort(field string, p v3.ProtoPort) {
	oneOf(c, field+".protocol", strings.ToLower(p.Protocol), "tcp", "udp", "sctp")
	if p.Net != "" {
		c.network(field+".net", p.Net, 0)
	}
}

func (c *checker) conntrackTimeouts(field string, t v3.BPFConntrackTimeouts) {
	for f, v := range reflect.ValueOf(t).Fields() {
		timeout, _ := reflect.TypeAssert[*v3.BPFConntrackTimeout](v)
		if timeout == nil || *timeout == "Auto" {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if d, err := time.ParseDuration(string(*timeout)); err != nil || d < 0 {
			c.bad(field+"."+name, string(*timeout), "want a duration such as 60s, or Auto")
		}
	}
}

func (c *checker) felixRanges(s *v3.FelixConfigurationSpec) {
	if s.RouteTableRanges != nil {
		var ranges []felixsetting.TableRange
		for i, r := range *s.RouteTableRanges {
			c.tableRange(at("spec.routeTableRanges", i), r.Min, r.Max, math.MaxUint32)
			ranges = append(ranges, felixsetting.TableRange{Min: int64(r.Min), Max: int64(r.Max)})
		}
		c.usableTables("spec.routeTableRanges", ranges)
	}
	if r := s.RouteTableRange; r != nil {
		c.tableRange("spec.routeTableRange", r.Min, r.Max, 250)
		c.usableTables("spec.routeTableRange", []felixsetting.TableRange{{Min: int64(r.Min), Max: int64(r.Max)}})
		if s.RouteTableRanges != nil {
			c.missing("spec.routeTableRange", "can't be combined with routeTableRanges; leave it out")
		}
	}
}

// tableRange checks a range of routing tables.
func (c *checker) tableRange(field string, first, last, most int) {
	switch {
	case first < 1 || last > most:
		c.missing(field, "min %d, max %d: want routing tables from 1 to %d", first, last, most)
	case first > last:
		c.missing(field, "min %d is more than max %d", first, last)
	}
}

// usableTables refuses ranges that are in order, each, and of no use.
func (c *checker) usableTables(field string, ranges []felixsetting.TableRange) {
	if slices.ContainsFunc(ranges, func(r felixsetting.TableRange) bool { return r.Min < 1 || r.Max > math.MaxUint32 || r.Min > r.Max }) {
		return
	}
	if _, err := felixsetting.FirstTable(ranges); err != nil {
		c.missing(field, "%v", err)
	}
}

// words allows one of a few words.
func words(allowed ...string) felixRule {
	return func(c *checker, field string, v reflect.Value) { oneOf(c, field, v.String(), allowed...) }
}

// numbers allows a range of integers.
func numbers(least, most int64) felixRule {
	return func(c *checker, field string, v reflect.Value) {
		var n int64
		if v.CanUint() {
			n = int64(v.Uint())
		} else {
			n = v.Int()
		}
		if n < least || n > most {
			c.bad(field, n, "want %d to %d", least, most)
		}
	}
}

func logLevelRule(c *checker, field string, v reflect.Value) { c.logLevel(field, v.String()) }

// regexRule checks a regular expression without compiling it.
func regexRule(c *checker, field string, v reflect.Value) {
	if _, err := syntax.Parse(v.String(), syntax.Perl); err != nil {
		c.bad(field, v.String(), "%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// text makes a rule of a check whose error goes on from the value.
func text(check func(string) error) felixRule {
	return func(c *checker, field string, v reflect.Value) {
		if err := check(v.String()); err != nil {
			c.bad(field, v.String(), "%v", err)
		}
	}
}

// read makes a check of what reads a value.
func read[T any](parse func(string) (T, error)) func(string) error {
	return func(v string) error {
		_, err := parse(v)
		return err
	}
}

func mtuRule(v6 bool) felixRule {
	return func(c *checker, field string, v reflect.Value) {
		if _, err := felixsetting.MTU(strconv.FormatInt(v.Int(), 10), v6); err != nil {
			c.bad(field, v.Int(), "%v", err)
		}
	}
}

func keepAliveRule(c *checker, field string, v reflect.Value) {
	d, _ := reflect.TypeAssert[metav1.Duration](v)
	if err := felixsetting.KeepAlive(d.Duration); err != nil {
		c.bad(field, d.Duration, "%v", err)
	}
}

// intervalRule: felix has no word for never here.
func intervalRule(c *checker, field string, v reflect.Value) {
	if d, _ := reflect.TypeAssert[metav1.Duration](v); d.Duration == 0 || d.Duration > 365*24*time.Hour {
		c.bad(field, d.Duration, "want more than 0s, and at most a year")
	}
}

func addrRule(family int) felixRule {
	return func(c *checker, field string, v reflect.Value) { c.addr(field, v.String(), family) }
}

func networksRule(c *checker, field string, v reflect.Value) {
	nets, _ := reflect.TypeAssert[[]string](v)
	c.networks(field, nets)
	for i, n := range nets {
		if p, err := netip.ParsePrefix(n); err == nil && felixsetting.Network(p) != nil {
			c.bad(at(field, i), n, "%v", felixsetting.Network(p))
		}
	}
}

// keyValueRule checks "Name=value,Other=value".
func keyValueRule(c *checker, field string, v reflect.Value) {
	for pair := range strings.SplitSeq(v.String(), ",") {
		if key, _, ok := strings.Cut(strings.TrimSpace(pair), "="); pair != "" && (!ok || key == "") {
			c.bad(field, v.String(), "want pairs such as SNATFullyRandom=true, separated by commas")
			return
		}
	}
}

// felixRules are the allowed values by the name of the field.
func felixRules() map[string]felixRule {
	rules := felixWords()
	maps.Copy(rules, felixNumbers())
	maps.Copy(rules, felixTexts())
	return rules
}

func felixWords() map[string]felixRule {
	return map[string]felixRule{
		"iptablesBackend":                words("Legacy", "NFT", "Auto"),
		"nftablesMode":                   words("Enabled", "Disabled", "Auto"),
		"awsSrcDstCheck":                 words("DoNothing", "Enable", "Disable"),
		"bpfAttachType":                  words("TC", "TCX"),
		"floatingIPs":                    words("Enabled", "Disabled"),
		"bpfHostNetworkedNATWithoutCTLB": words("Enabled", "Disabled"),
		"bpfConnectTimeLoadBalancing":    words("TCP", "Enabled", "Disabled"),
		"bpfConntrackMode":               words("Auto", "Userspace", "BPFProgram"),
		"windowsManageFirewallRules":     words("Enabled", "Disabled"),
		"flowLogsPolicyEvaluationMode":   words("None", "Continuous"),
		"natOutgoingExclusions":          words("IPPoolsOnly", "IPPoolsAndHostIPs"),
		"chainInsertMode":                words("Insert", "Append", "insert", "append"),
		"defaultEndpointToHostAction":    words("Drop", "Accept", "Return"),
		"iptablesFilterAllowAction":      words("Accept", "Return"),
		"iptablesMangleAllowAction":      words("Accept", "Return"),
		"iptablesFilterDenyAction":       words("Drop", "Reject"),
		"nftablesFilterAllowAction":      words("Accept", "Return"),
		"nftablesMangleAllowAction":      words("Accept", "Return"),
		"nftablesFilterDenyAction":       words("Drop", "Reject"),
		"bpfLogLevel":                    words("Off", "Info", "Debug"),
		"bpfConntrackLogLevel":           words("Off", "Debug"),
		"bpfExternalServiceMode":         words("Tunnel", "DSR"),
		"bpfEnforceRPF":                  words("Disabled", "Strict", "Loose"),
		"bpfRedirectToPeer":              words("Enabled", "Disabled", "L2Only"),
		"bpfProfiling":                   words("Enabled", "Disabled"),
		"bpfMapSizeConntrackScaling":     words("Disabled", "DoubleIfFull"),
		"ipForwarding":                   words("Enabled", "Disabled"),
		"programClusterRoutes":           words("Enabled", "Disabled"),
		"routeSource":                    words("WorkloadIPs", "CalicoIPAM"),
		"serviceLoopPrevention":          words("Drop", "Reject", "Disabled"),
		"workloadSourceSpoofing":         words("Disabled", "Any"),
	}
}

func felixNumbers() map[string]felixRule {
	port := numbers(0, 65535)
	mapSize := numbers(1, math.MaxInt32)
	return map[string]felixRule{
		"metadataPort":                    port,
		"healthPort":                      port,
		"prometheusMetricsPort":           port,
		"debugPort":                       port,
		"vxlanPort":                       numbers(1, 65535),
		"wireguardListeningPort":          numbers(1, 65535),
		"wireguardListeningPortV6":        numbers(1, 65535),
		"vxlanVNI":                        numbers(1, 1<<24-1),
		"wireguardRoutingRulePriority":    numbers(1, 32765),
		"deviceRouteProtocol":             numbers(0, 255),
		"ipipMTU":                         mtuRule(false),
		"vxlanMTU":                        mtuRule(false),
		"vxlanMTUV6":                      mtuRule(true),
		"wireguardMTU":                    mtuRule(false),
		"wireguardMTUV6":                  mtuRule(true),
		"maxIpsetSize":                    mapSize,
		"bpfExtToServiceConnmark":         numbers(0, math.MaxUint32),
		"goGCThreshold":                   numbers(-1, math.MaxInt32),
		"goMemoryLimitMB":                 numbers(-1, math.MaxInt32),
		"goMaxProcs":                      numbers(-1, math.MaxInt32),
		"bpfMapSizeNATFrontend":           mapSize,
		"bpfMapSizeNATBackend":            mapSize,
		"bpfMapSizeNATAffinity":           mapSize,
		"bpfMapSizeRoute":                 mapSize,
		"bpfMapSizeConntrack":             mapSize,
		"bpfMapSizeConntrackCleanupQueue": mapSize,
		"bpfMapSizeIPSets":                mapSize,
		"bpfMapSizeIfState":               mapSize,
	}
}

func felixTexts() map[string]felixRule {
	return map[string]felixRule{
		"logSeverityFile":                    logLevelRule,
		"logSeverityScreen":                  logLevelRule,
		"logSeveritySys":                     logLevelRule,
		"logDebugFilenameRegex":              regexRule,
		"bpfDataIfacePattern":                regexRule,
		"bpfL3IfacePattern":                  regexRule,
		"bpfDisableGROForIfaces":             regexRule,
		"mtuIfacePattern":                    regexRule,
		"natOutgoingAddress":                 text(read(felixsetting.NATAddress)),
		"deviceRouteSourceAddress":           addrRule(4),
		"deviceRouteSourceAddressIPv6":       addrRule(6),
		"externalNodesList":                  networksRule,
		"bpfDSROptoutCIDRs":                  networksRule,
		"bpfExcludeCIDRsFromNAT":             networksRule,
		"wireguardInterfaceName":             text(read(felixsetting.WireguardDevice)),
		"wireguardInterfaceNameV6":           text(read(felixsetting.WireguardDevice)),
		"iptablesNATOutgoingInterfaceFilter": text(read(felixsetting.Devices)),
		"healthHost":                         text(felixsetting.Host),
		"prometheusMetricsHost":              text(felixsetting.Host),
		"wireguardKeepAlive":                 keepAliveRule,
		"routeRefreshInterval":               intervalRule,
		"interfacePrefix":                    words("cali"),
		"featureDetectOverride":              keyValueRule,
		"featureGates":                       keyValueRule,
	}
}
