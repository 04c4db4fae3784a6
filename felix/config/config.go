// Package config is felix's configuration: typed parameters under upstream's
// names, from the environment, a file and the datastore.
package config

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tortie/felix/nat"
	"tortie/felix/serviceloop"
	"tortie/internal/control/cniwire"
	"tortie/internal/felixsetting"
	"tortie/internal/servingcert"
)

// Config is what felix works with.
type Config struct {
	LogLevel slog.Level
	// IPForwarding: felix switches forwarding on in the kernel. Else the operator
	// has.
	IPForwarding bool
	// RouteRefreshInterval is how often the kernel is read and compared in full.
	RouteRefreshInterval time.Duration
	HealthEnabled        bool
	// HealthAddress is host:port of /liveness and /readiness.
	HealthAddress string
	// MetricsEnabled: MetricsAddress, host:port, serves /metrics.
	MetricsEnabled bool
	MetricsAddress string
	// MetricsTLS are the files with which they are served by TLS.
	MetricsTLS servingcert.Files
	// GoMetrics and ProcessMetrics add those of the Go runtime and of the process.
	GoMetrics, ProcessMetrics bool
	// CNISocket is where the CNI plugin finds felix.
	CNISocket string
	// CNITimeout bounds a CNI call.
	CNITimeout time.Duration
	// LockFile keeps a second felix off this node.
	LockFile string
	// JournalDir holds the journal of attachments.
	JournalDir string
	VXLAN      VXLAN
	IPIP       IPIP
	Wireguard  Wireguard
	// ExternalNodes may send packets in tunnels, as the nodes of the cluster may.
	ExternalNodes Networks
	// ServiceLoopPrevention is what becomes of packets to announced service addresses
	// that no service has.
	ServiceLoopPrevention serviceloop.Mode
	// Sources says what pods may send besides packets from their own addresses.
	Sources Sources
	// FloatingIPs: pods have the floating addresses that they ask for.
	FloatingIPs bool
	NAT         NAT
	MTU         MTU
	// MTUFile is where other programs read the MTU of pods.
	MTUFile string
	// PathMTUProbeInterval is the pause between two looks at whether large packets reach
	// another node; 0: never.
	PathMTUProbeInterval time.Duration
}

// MTU says what the MTU of pods follows from.
type MTU struct {
	// Pattern is a regular expression of the devices that count; empty for those with the
	// node's addresses.
	Pattern string
	// RequireFile: felix is not ready before MTUFile is written.
	RequireFile bool
}

// IPIP is the same of IPIP.
type IPIP struct {
	Enabled bool
	MTU     int
}

// Networks are prefixes, without host bits.
type Networks []netip.Prefix

// Sources is what an endpoint can't allow its pod by itself.
type Sources struct {
	// Any: pods may send from the prefixes that they ask for.
	Any bool
	// VXLAN and IPIP: pods may send such packets, in which there can be any source.
	VXLAN, IPIP bool
}

// NAT is what the IP pools don't say of natOutgoing.
type NAT struct {
	// ExemptNodes: the nodes of the cluster see pods' own addresses.
	ExemptNodes bool
	How         nat.How
}

// VXLAN is what the IP pools don't say of it.
type VXLAN struct {
	// Enabled: the pools decide. Else this node has no part in it.
	Enabled bool
	VNI     uint32
	Port    uint16
	// MTU4 and MTU6 are the devices'; 0 is the underlay's less the encapsulation.
	MTU4, MTU6 int
}

// The defaults of the paths that are not upstream's.
const (
	DefaultFile       = "/etc/calico/felix.cfg"
	DefaultLockFile   = "/var/run/calico/felix.lock"
	DefaultJournalDir = "/var/lib/calico/felix/journal"
	DefaultMTUFile    = "/var/lib/calico/mtu" // upstream's
)

// parameter is one that is served here.
type parameter struct {
	name string
	// field is its name in FelixConfiguration, whose changes take effect at once: a
	// running felix hands every new Config to all of its parts. It is empty for local
	// ones, which are read at the start.
	field string
	set   func(c *Config, value string) error
}

// addresses are kept apart until both parts of each are known.
type addresses struct{ health, metrics hostPort }

type hostPort struct{ host, port string }

func (a hostPort) String() string { return net.JoinHostPort(a.host, a.port) }

// parameters lists what is served. Names are compared without regard to case.
func parameters(a *addresses) []parameter {
	return append(wireguardParameters(), []parameter{
		{"LogSeverityScreen", "logSeverityScreen", func(c *Config, v string) (err error) { c.LogLevel, err = parseLevel(v); return err }},
		{"IPForwarding", "ipForwarding", func(c *Config, v string) (err error) { c.IPForwarding, err = parseEnabled(v); return err }},
		{"RouteRefreshInterval", "routeRefreshInterval", func(c *Config, v string) (err error) { c.RouteRefreshInterval, err = parseSeconds(v); return err }},
		{"HealthEnabled", "healthEnabled", func(c *Config, v string) (err error) { c.HealthEnabled, err = parseBool(v); return err }},
		{"HealthHost", "healthHost", func(_ *Config, v string) error { a.health.host = v; return felixsetting.Host(v) }},
		{"HealthPort", "healthPort", func(_ *Config, v string) error { a.health.port = v; return checkPort(v) }},
		{"PrometheusMetricsEnabled", "prometheusMetricsEnabled", func(c *Config, v string) (err error) { c.MetricsEnabled, err = parseBool(v); return err }},
		{"PrometheusMetricsHost", "prometheusMetricsHost", func(_ *Config, v string) error { a.metrics.host = v; return felixsetting.Host(v) }},
		{"PrometheusMetricsPort", "prometheusMetricsPort", func(_ *Config, v string) error { a.metrics.port = v; return checkPort(v) }},
		{"PrometheusMetricsCertFile", "prometheusMetricsCertFile", func(c *Config, v string) error { c.MetricsTLS.Cert = v; return nil }},
		{"PrometheusMetricsKeyFile", "prometheusMetricsKeyFile", func(c *Config, v string) error { c.MetricsTLS.Key = v; return nil }},
		{"PrometheusMetricsCAFile", "prometheusMetricsCAFile", func(c *Config, v string) error { c.MetricsTLS.CA = v; return nil }},
		{"PrometheusMetricsClientAuth", "prometheusMetricsClientAuth", func(c *Config, v string) (err error) {
			c.MetricsTLS.ClientAuth, err = servingcert.ParseClientAuth(v)
			return err
		}},
		{"PrometheusGoMetricsEnabled", "prometheusGoMetricsEnabled", func(c *Config, v string) (err error) { c.GoMetrics, err = parseBool(v); return err }},
		{"PrometheusProcessMetricsEnabled", "prometheusProcessMetricsEnabled", func(c *Config, v string) (err error) { c.ProcessMetrics, err = parseBool(v); return err }},
		{"InterfacePrefix", "interfacePrefix", func(_ *Config, v string) error { return only(v, "cali") }},
		{"VXLANEnabled", "vxlanEnabled", func(c *Config, v string) (err error) { c.VXLAN.Enabled, err = parseBool(v); return err }},
		{"VXLANVNI", "vxlanVNI", func(c *Config, v string) (err error) { c.VXLAN.VNI, err = within[uint32](v, 1, 1<<24-1); return err }},
		{"VXLANPort", "vxlanPort", func(c *Config, v string) (err error) { c.VXLAN.Port, err = within[uint16](v, 1, 65535); return err }},
		{"VXLANMTU", "vxlanMTU", func(c *Config, v string) (err error) { c.VXLAN.MTU4, err = felixsetting.MTU(v, false); return err }},
		{"VXLANMTUV6", "vxlanMTUV6", func(c *Config, v string) (err error) { c.VXLAN.MTU6, err = felixsetting.MTU(v, true); return err }},
		{"IpInIpEnabled", "ipipEnabled", func(c *Config, v string) (err error) { c.IPIP.Enabled, err = parseBool(v); return err }},
		{"IpInIpMtu", "ipipMTU", func(c *Config, v string) (err error) { c.IPIP.MTU, err = felixsetting.MTU(v, false); return err }},
		{"ExternalNodesCIDRList", "externalNodesList", func(c *Config, v string) (err error) { c.ExternalNodes, err = parseNetworks(v); return err }},
		{"ServiceLoopPrevention", "serviceLoopPrevention", func(c *Config, v string) (err error) { c.ServiceLoopPrevention, err = parseServiceLoops(v); return err }},
		{"NATOutgoingExclusions", "natOutgoingExclusions", func(c *Config, v string) (err error) { c.NAT.ExemptNodes, err = parseExclusions(v); return err }},
		{"NATPortRange", "natPortRange", func(c *Config, v string) (err error) { c.NAT.How.Ports, err = parsePorts(v); return err }},
		{"NATOutgoingAddress", "natOutgoingAddress", func(c *Config, v string) (err error) { c.NAT.How.Address, err = felixsetting.NATAddress(v); return err }},
		{"IptablesNATOutgoingInterfaceFilter", "iptablesNATOutgoingInterfaceFilter", func(c *Config, v string) (err error) { c.NAT.How.Device, err = felixsetting.Devices(v); return err }},
		{"MTUIfacePattern", "mtuIfacePattern", func(c *Config, v string) (err error) { c.MTU.Pattern, err = parsePattern(v); return err }},
		{"RequireMTUFile", "requireMTUFile", func(c *Config, v string) (err error) { c.MTU.RequireFile, err = parseBool(v); return err }},
		{"MTUFile", "", func(c *Config, v string) error { c.MTUFile = v; return checkPath(v) }},
		{"PathMTUProbeInterval", "", func(c *Config, v string) (err error) { c.PathMTUProbeInterval, err = parsePause(v); return err }},
		{"WorkloadSourceSpoofing", "workloadSourceSpoofing", func(c *Config, v string) (err error) { c.Sources.Any, err = parseSpoofing(v); return err }},
		{"AllowVXLANPacketsFromWorkloads", "allowVXLANPacketsFromWorkloads", func(c *Config, v string) (err error) { c.Sources.VXLAN, err = parseBool(v); return err }},
		{"AllowIPIPPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads", func(c *Config, v string) (err error) { c.Sources.IPIP, err = parseBool(v); return err }},
		{"FloatingIPs", "floatingIPs", func(c *Config, v string) (err error) { c.FloatingIPs, err = parseEnabled(v); return err }},
		{"DatastoreType", "", func(_ *Config, v string) error { return only(v, "etcdv3") }},
		{"CNISocket", "", func(c *Config, v string) error { c.CNISocket = v; return checkPath(v) }},
		{"CNITimeout", "", func(c *Config, v string) (err error) { c.CNITimeout, err = parseSeconds(v); return err }},
		{"LockFile", "", func(c *Config, v string) error { c.LockFile = v; return checkPath(v) }},
		{"JournalDir", "", func(c *Config, v string) error { c.JournalDir = v; return checkPath(v) }},
	}...)
}

// defaults is the configuration when nobody says anything.
func defaults() (Config, *addresses) {
	return Config{
		LogLevel: slog.LevelInfo, IPForwarding: true, RouteRefreshInterval: 90 * time.Second,
		CNISocket: cniwire.DefaultSocket, CNITimeout: 10 * time.Second,
		LockFile: DefaultLockFile, JournalDir: DefaultJournalDir,
		VXLAN: VXLAN{Enabled: true, VNI: 4096, Port: felixsetting.DefaultVXLANPort}, IPIP: IPIP{Enabled: true}, Wireguard: defaultWireguard(), ServiceLoopPrevention: serviceloop.Drop,
		GoMetrics: true, ProcessMetrics: true, MetricsTLS: servingcert.Files{ClientAuth: tls.RequireAndVerifyClientCert}, NAT: NAT{ExemptNodes: true},
		MTUFile: DefaultMTUFile, PathMTUProbeInterval: 15 * time.Second,
	}, &addresses{health: hostPort{"localhost", "9099"}, metrics: hostPort{"", "9091"}}
}

// Problem is something about the configuration that an operator should know.
type Problem struct {
	Source string // "environment", the file's path, "FelixConfiguration default" …
	Name   string // as it stands there
	Reason string
	// Bad: the value can't be used, or nobody knows the name. Else the parameter is
	// upstream's and has no effect here.
	Bad bool
	// Field is the parameter's name in FelixConfiguration, wherever it stands; empty for one
	// that is not served.
	Field string
}

// String is one line for the operator.
func (p Problem) String() string { return fmt.Sprintf("%s: %s: %s", p.Source, p.Name, p.Reason) }

// Resolve makes a configuration of layers, the strongest first. A value that
// can't be used is a Problem, and the next weaker layer counts instead.
func Resolve(layers ...Layer) (Config, []Problem) {
	c, a := defaults()
	var problems []Problem
	served := map[string]bool{}
	for _, p := range parameters(a) {
		key := strings.ToLower(p.name)
		served[p.name] = true
		for _, layer := range layers {
			v, ok := layer.values[key]
			if !ok {
				continue
			}
			before, beforeAddresses := c, *a
			err := p.set(&c, v.text)
			if err == nil {
				break
			}
			c, *a = before, beforeAddresses
			problems = append(problems, Problem{layer.Source, v.written, fmt.Sprintf("%q %v", v.text, err), true, p.field})
		}
	}
	problems = append(problems, settle(&c, layers)...)
	for _, layer := range layers {
		problems = append(problems, layer.unserved(served)...)
	}
	c.HealthAddress, c.MetricsAddress = a.health.String(), a.metrics.String()
	return c, problems
}

// settle has nothing of the Config want what something else has, and says whose field
// does not count for it.
func settle(c *Config, layers []Layer) (problems []Problem) {
	w := &c.Wireguard
	d := felixsetting.Distinct{WireguardPort4: w.Port4, WireguardPort6: w.Port6, WireguardName4: w.Name4, WireguardName6: w.Name6}
	if c.VXLAN.Enabled {
		d.VXLANPort = c.VXLAN.Port
	}
	clashes := d.Settle()
	w.Port4, w.Port6, w.Name4, w.Name6 = d.WireguardPort4, d.WireguardPort6, d.WireguardName4, d.WireguardName6
	if c.VXLAN.Enabled {
		c.VXLAN.Port = d.VXLANPort
	}
	for _, clash := range clashes {
		// As fields and parameters are called alike, but for the case.
		p := Problem{Name: clash.Field, Reason: fmt.Sprintf("%q %s", clash.Value, clash.Reason), Bad: true, Field: clash.Field}
		for _, layer := range layers {
			if v, ok := layer.values[strings.ToLower(clash.Field)]; ok && v.text == clash.Value {
				p.Source, p.Name = layer.Source, v.written
				break
			}
		}
		problems = append(problems, p)
	}
	return problems
}

func parseLevel(v string) (slog.Level, error) {
	switch strings.ToUpper(v) {
	case "TRACE", "DEBUG":
		return slog.LevelDebug, nil
	case "INFO", "":
		return slog.LevelInfo, nil
	case "WARN", "WARNING":
		return slog.LevelWarn, nil
	case "ERROR":
		return slog.LevelError, nil
	case "FATAL", "NONE":
		return slog.LevelError + 4, nil
	}
	return 0, fmt.Errorf("is no severity; want DEBUG, INFO, WARNING, ERROR or FATAL")
}

func parseEnabled(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "enabled":
		return true, nil
	case "disabled":
		return false, nil
	}
	return false, fmt.Errorf("is neither Enabled nor Disabled")
}

func parseSpoofing(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "any":
		return true, nil
	case "disabled":
		return false, nil
	}
	return false, fmt.Errorf("is neither Any nor Disabled")
}

func parseServiceLoops(v string) (serviceloop.Mode, error) {
	for _, mode := range []serviceloop.Mode{serviceloop.Drop, serviceloop.Reject, serviceloop.Disabled} {
		if strings.EqualFold(v, string(mode)) {
			return mode, nil
		}
	}
	return "", fmt.Errorf("is neither Drop, Reject nor Disabled")
}

// parseExclusions: upstream's default is the first; here nodes see pods' own addresses
// unless somebody says otherwise.
func parseExclusions(v string) (nodes bool, err error) {
	switch strings.ToLower(v) {
	case "ippoolsonly":
		return false, nil
	case "ippoolsandhostips":
		return true, nil
	}
	return false, fmt.Errorf("is neither IPPoolsOnly nor IPPoolsAndHostIPs")
}

// parsePorts takes a port, a range "1024:65535", or 0 for any.
func parsePorts(v string) (nat.Ports, error) {
	if v == "0" || v == "" {
		return nat.Ports{}, nil
	}
	first, last, ok := strings.Cut(v, ":")
	if !ok {
		last = first
	}
	a, errA := within[uint16](first, 1, 65535)
	b, errB := within[uint16](last, 1, 65535)
	if errA != nil || errB != nil || a > b {
		return nat.Ports{}, fmt.Errorf("is no range of ports; want one such as 32768:65535")
	}
	return nat.Ports{First: a, Last: b}, nil
}

func parseBool(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "true", "1", "yes", "y", "t":
		return true, nil
	case "false", "0", "no", "n", "f":
		return false, nil
	}
	return false, fmt.Errorf("is neither true nor false")
}

// parseSeconds takes seconds as upstream writes them in files ("90") and Go
// durations as it writes them in resources ("1m30s").
func parseSeconds(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if seconds, ferr := strconv.ParseFloat(v, 64); ferr == nil {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || d <= 0 || d > 365*24*time.Hour {
		return 0, fmt.Errorf("is no interval; want seconds, such as 90, or a duration, such as 1m30s")
	}
	return d, nil
}

// parsePause takes 0 for never.
func parsePause(v string) (time.Duration, error) {
	if v == "0" {
		return 0, nil
	}
	return parseSeconds(v)
}

// upstreamPattern is upstream's default, which stands in resources that it stored; the
// devices with the node's addresses are what it is meant to find.
const upstreamPattern = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)"

func parsePattern(v string) (string, error) {
	if _, err := regexp.Compile(v); err != nil {
		return "", fmt.Errorf("is no regular expression: %w", err)
	}
	if v == upstreamPattern {
		return "", nil
	}
	return v, nil
}

func checkPort(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("is no port; want 0 to 65535")
	}
	return nil
}

// within reads a number of a range.
func within[T uint16 | uint32](v string, least, most uint64) (T, error) {
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("is not within %d to %d", least, most)
	}
	return T(n), nil
}

// parseNetworks takes a list between commas, as in a file, or one of JSON, as in a
// resource.
func parseNetworks(v string) (Networks, error) {
	var texts []string
	if err := json.Unmarshal([]byte(v), &texts); err != nil {
		texts = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
	}
	var out Networks
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if a, addrErr := netip.ParseAddr(text); addrErr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || felixsetting.Network(p) != nil {
			return nil, fmt.Errorf("is no list of networks; want such as 192.0.2.0/24,198.51.100.7")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func checkPath(v string) error {
	if !strings.HasPrefix(v, "/") {
		return fmt.Errorf("is no absolute path")
	}
	return nil
}

func only(v, want string) error {
	if v != want {
		return fmt.Errorf("is not supported by this version; want %s", want)
	}
	return nil
}
