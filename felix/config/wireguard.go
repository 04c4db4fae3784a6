package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"tortie/felix/hostways"
	"tortie/internal/felixsetting"
)

// Wireguard is what is to be known of it; it is on for all IP pools or for none.
type Wireguard struct {
	Enabled4, Enabled6 bool
	Name4, Name6       string
	Port4, Port6       uint16
	// MTU4 and MTU6 are the devices'; 0 is the underlay's less the encapsulation.
	MTU4, MTU6 int
	// KeepAlive is how often a peer is written to that there is nothing to say to; 0: never.
	KeepAlive time.Duration
	// KeyLifetime is how old a node's key gets before it has another; 0: any age.
	KeyLifetime time.Duration
	// Hosts: what nodes themselves send each other is encrypted, too; by a routing rule of
	// this Priority, and a Table.
	Hosts           bool
	Priority, Table int
	// Metrics shows the devices and peers.
	Metrics bool
}

func defaultWireguard() Wireguard {
	return Wireguard{
		Name4: felixsetting.DefaultWireguardName4, Name6: felixsetting.DefaultWireguardName6,
		Port4: felixsetting.DefaultWireguardPort4, Port6: felixsetting.DefaultWireguardPort6, Priority: hostways.DefaultPriority, Table: hostways.DefaultTable, Metrics: true,
	}
}

func wireguardParameters() []parameter {
	return []parameter{
		{"WireguardEnabled", "wireguardEnabled", func(c *Config, v string) (err error) { c.Wireguard.Enabled4, err = parseBool(v); return err }},
		{"WireguardEnabledV6", "wireguardEnabledV6", func(c *Config, v string) (err error) { c.Wireguard.Enabled6, err = parseBool(v); return err }},
		{"WireguardHostEncryptionEnabled", "wireguardHostEncryptionEnabled", func(c *Config, v string) (err error) { c.Wireguard.Hosts, err = parseBool(v); return err }},
		{"WireguardRoutingRulePriority", "wireguardRoutingRulePriority", func(c *Config, v string) error {
			n, err := within[uint16](v, 1, 32765) // the next is the main table's
			c.Wireguard.Priority = int(n)
			return err
		}},
		// Of the two the latter counts, as upstream.
		{"RouteTableRange", "routeTableRange", func(c *Config, v string) (err error) { c.Wireguard.Table, err = parseTables(v); return err }},
		{"RouteTableRanges", "routeTableRanges", func(c *Config, v string) (err error) { c.Wireguard.Table, err = parseTables(v); return err }},
		{"PrometheusWireGuardMetricsEnabled", "prometheusWireGuardMetricsEnabled", func(c *Config, v string) (err error) { c.Wireguard.Metrics, err = parseBool(v); return err }},
		{"WireguardInterfaceName", "wireguardInterfaceName", func(c *Config, v string) (err error) {
			c.Wireguard.Name4, err = felixsetting.WireguardDevice(v)
			return err
		}},
		{"WireguardInterfaceNameV6", "wireguardInterfaceNameV6", func(c *Config, v string) (err error) {
			c.Wireguard.Name6, err = felixsetting.WireguardDevice(v)
			return err
		}},
		{"WireguardListeningPort", "wireguardListeningPort", func(c *Config, v string) (err error) {
			c.Wireguard.Port4, err = within[uint16](v, 1, 65535)
			return err
		}},
		{"WireguardListeningPortV6", "wireguardListeningPortV6", func(c *Config, v string) (err error) {
			c.Wireguard.Port6, err = within[uint16](v, 1, 65535)
			return err
		}},
		{"WireguardMTU", "wireguardMTU", func(c *Config, v string) (err error) { c.Wireguard.MTU4, err = felixsetting.MTU(v, false); return err }},
		{"WireguardMTUV6", "wireguardMTUV6", func(c *Config, v string) (err error) { c.Wireguard.MTU6, err = felixsetting.MTU(v, true); return err }},
		{"WireguardPersistentKeepAlive", "wireguardKeepAlive", func(c *Config, v string) (err error) { c.Wireguard.KeepAlive, err = parseKeepAlive(v); return err }},
		{"WireguardKeyLifetime", "", func(c *Config, v string) (err error) { c.Wireguard.KeyLifetime, err = parsePause(v); return err }},
	}
}

// parseTables takes ranges of routing tables, as a resource has them or "1-250,300-400",
// and is the first table that the kernel does not have for itself.
func parseTables(v string) (int, error) {
	var ranges []felixsetting.TableRange
	one := felixsetting.TableRange{}
	if json.Unmarshal([]byte(v), &one) == nil {
		ranges = append(ranges, one)
	} else if json.Unmarshal([]byte(v), &ranges) != nil {
		for part := range strings.SplitSeq(v, ",") {
			if _, err := fmt.Sscanf(strings.TrimSpace(part), "%d-%d", &one.Min, &one.Max); err != nil {
				return 0, fmt.Errorf("is no range of routing tables; want one such as 1-250")
			}
			ranges = append(ranges, one)
		}
	}
	return felixsetting.FirstTable(ranges)
}

// parseKeepAlive takes what WireGuard can count: whole seconds.
func parseKeepAlive(v string) (time.Duration, error) {
	if v == "0s" {
		v = "0"
	}
	d, err := parsePause(v)
	if err != nil {
		return 0, err
	}
	return d, felixsetting.KeepAlive(d)
}
