package config

import (
	"fmt"
	"regexp"
	"time"
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
	// Hosts: what nodes themselves send is to be encrypted, too, which is not carried out.
	Hosts bool
}

func defaultWireguard() Wireguard {
	return Wireguard{Name4: "wireguard.cali", Name6: "wg-v6.cali", Port4: 51820, Port6: 51821}
}

func wireguardParameters() []parameter {
	return []parameter{
		{"WireguardEnabled", "wireguardEnabled", func(c *Config, v string) (err error) { c.Wireguard.Enabled4, err = parseBool(v); return err }},
		{"WireguardEnabledV6", "wireguardEnabledV6", func(c *Config, v string) (err error) { c.Wireguard.Enabled6, err = parseBool(v); return err }},
		{"WireguardHostEncryptionEnabled", "wireguardHostEncryptionEnabled", func(c *Config, v string) (err error) { c.Wireguard.Hosts, err = parseBool(v); return err }},
		{"WireguardInterfaceName", "wireguardInterfaceName", func(c *Config, v string) (err error) {
			c.Wireguard.Name4, err = parseDevice(v, c.Wireguard.Name6)
			return err
		}},
		{"WireguardInterfaceNameV6", "wireguardInterfaceNameV6", func(c *Config, v string) (err error) {
			c.Wireguard.Name6, err = parseDevice(v, c.Wireguard.Name4)
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
		{"WireguardMTU", "wireguardMTU", func(c *Config, v string) (err error) { c.Wireguard.MTU4, err = parseMTU(v, 576); return err }},
		{"WireguardMTUV6", "wireguardMTUV6", func(c *Config, v string) (err error) { c.Wireguard.MTU6, err = parseMTU(v, 1280); return err }},
		{"WireguardPersistentKeepAlive", "wireguardKeepAlive", func(c *Config, v string) (err error) { c.Wireguard.KeepAlive, err = parseKeepAlive(v); return err }},
		{"WireguardKeyLifetime", "", func(c *Config, v string) (err error) { c.Wireguard.KeyLifetime, err = parsePause(v); return err }},
	}
}

// parseDevice takes the name of one of the two devices, which is not the other's.
func parseDevice(v, other string) (string, error) {
	if !regexp.MustCompile(`^[a-zA-Z0-9._+-]{1,15}$`).MatchString(v) || v == "." || v == ".." {
		return "", fmt.Errorf("is no name of a device; want 1 to 15 letters, digits or . _ + -")
	}
	if v == other {
		return "", fmt.Errorf("is the name of the device for the other version of IP")
	}
	return v, nil
}

// parseKeepAlive takes what WireGuard can count: whole seconds.
func parseKeepAlive(v string) (time.Duration, error) {
	if v == "0s" {
		v = "0"
	}
	d, err := parsePause(v)
	if err != nil || d%time.Second != 0 || d > 65535*time.Second {
		return 0, fmt.Errorf("is no number of seconds from 0, for never, to 65535")
	}
	return d, nil
}
