package api

import (
	"maps"
	"math"
	"reflect"
	"regexp/syntax"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/api/pkg/lib/numorstring"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		for i, r := range *s.RouteTableRanges {
			c.tableRange(at("spec.routeTableRanges", i), r.Min, r.Max, math.MaxUint32)
		}
	}
	if r := s.RouteTableRange; r != nil {
		c.tableRange("spec.routeTableRange", r.Min, r.Max, 250)
		if s.RouteTableRanges != nil {
			c.missing("spec.routeTableRange", "can't be combined with routeTableRanges; leave it out")
		}
	}
}

// tableRange checks a range of routing tables; 253 to 255 are the kernel's own.
func (c *checker) tableRange(field string, first, last, most int) {
	switch {
	case first < 1 || last > most:
		c.missing(field, "min %d, max %d: want routing tables from 1 to %d", first, last, most)
	case first > last:
		c.missing(field, "min %d is more than max %d", first, last)
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

func addrRule(family int) felixRule {
	return func(c *checker, field string, v reflect.Value) { c.addr(field, v.String(), family) }
}

func interfaceRule(c *checker, field string, v reflect.Value) { c.interfaceName(field, v.String()) }

func networksRule(c *checker, field string, v reflect.Value) {
	nets, _ := reflect.TypeAssert[[]string](v)
	c.networks(field, nets)
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
	mtu := numbers(0, 65535)
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
		"ipipMTU":                         mtu,
		"vxlanMTU":                        mtu,
		"vxlanMTUV6":                      mtu,
		"wireguardMTU":                    mtu,
		"wireguardMTUV6":                  mtu,
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
		"logSeverityFile":              logLevelRule,
		"logSeverityScreen":            logLevelRule,
		"logSeveritySys":               logLevelRule,
		"logDebugFilenameRegex":        regexRule,
		"bpfDataIfacePattern":          regexRule,
		"bpfL3IfacePattern":            regexRule,
		"bpfDisableGROForIfaces":       regexRule,
		"mtuIfacePattern":              regexRule,
		"natOutgoingAddress":           addrRule(4),
		"deviceRouteSourceAddress":     addrRule(4),
		"deviceRouteSourceAddressIPv6": addrRule(6),
		"externalNodesList":            networksRule,
		"bpfDSROptoutCIDRs":            networksRule,
		"bpfExcludeCIDRsFromNAT":       networksRule,
		"wireguardInterfaceName":       interfaceRule,
		"wireguardInterfaceNameV6":     interfaceRule,
		"featureDetectOverride":        keyValueRule,
		"featureGates":                 keyValueRule,
	}
}
