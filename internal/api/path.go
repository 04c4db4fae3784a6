package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The roots of the etcd layout.
const (
	resourceRoot = "/calico/resources/v3/" + "projectcalico.org/"
	ipamRoot     = "/calico/ipam/v2/"
	configPath   = ipamRoot + "config"
	handleRoot   = ipamRoot + "handle/"
	blockRoot    = ipamRoot + "assignment/"
	// What upstream hasn't is below /calico/, where etcd users have their permissions,
	// in a place where upstream looks for nothing.
	ownRoot     = "/calico/tortie/v1/"
	serviceRoot = ownRoot + "services/"
	historyRoot = ownRoot + "history/"
	loanRoot    = ownRoot + "loans/"
)

// checkKey refuses a key that has no place in the store: a missing or superfluous
// namespace, an empty name, a slash that would make another key of it.
func (d *definition) checkKey(key Key) error {
	switch {
	case key.Name == "":
		return fmt.Errorf("%s: the name is missing", key.Kind)
	case d.info.Namespaced && key.Namespace == "":
		return fmt.Errorf("%s: the namespace is missing", key)
	case !d.info.Namespaced && key.Namespace != "":
		return fmt.Errorf("%s: %s has no namespace", key, key.Kind)
	case strings.Contains(key.Namespace, "/"):
		return fmt.Errorf("%s: the namespace %q must not contain a slash", key, key.Namespace)
	case d.info.Kind == KindBlockAffinity || d.info.Kind == KindIPAMBlock:
		return nil // these names contain a CIDR and are checked with it
	case d.info.Kind == KindIPAMLoan:
		_, _, err := ParseLoanName(key.Name)
		return err
	case strings.Contains(key.Name, "/"):
		return fmt.Errorf("%s: the name %q must not contain a slash", key, key.Name)
	case d.info.Kind == KindIPAMHistory:
		_, _, err := ParseHistoryName(key.Name)
		return err
	case d.info.Kind == KindIPAMConfig && key != IPAMConfigKey():
		return fmt.Errorf("%s: there is only %s", key, IPAMConfigKey())
	}
	return nil
}

// Path is the place of a key in etcd, as in Calico's layout. The error starts
// with the key.
func (r *Registry) Path(key Key) (string, error) {
	d, err := r.definition(key.Kind)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if err := d.checkKey(key); err != nil {
		return "", err
	}
	switch key.Kind {
	case KindIPAMConfig:
		return configPath, nil
	case KindIPAMHandle:
		return handleRoot + key.Name, nil
	case KindIPAMBlock:
		block, err := parseBlock(key.Name)
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		return blockRoot + blockPath(block), nil
	case KindBlockAffinity:
		return affinityPath(key)
	}
	if key.Namespace != "" {
		return d.root() + key.Namespace + "/" + key.Name, nil
	}
	return d.root() + key.Name, nil
}

// root is where the objects of a kind lie that is none of IPAM's.
func (d *definition) root() string {
	switch d.info.Kind {
	case KindAdvertisedService:
		return serviceRoot
	case KindIPAMHistory:
		return historyRoot
	case KindIPAMLoan:
		return loanRoot
	}
	return resourceRoot + d.info.Plural + "/"
}

func affinityPath(key Key) (string, error) {
	owner, block, err := ParseBlockAffinityName(key.Name)
	if err == nil {
		_, err = parseBlock(key.Name[len(owner.String())+1:])
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return ipamRoot + string(owner.Type) + "/" + owner.Name + "/" + blockPath(block), nil
}

// parseBlock reads a block CIDR in its canonical text, the only one that has a
// place in the store.
func parseBlock(s string) (netip.Prefix, error) {
	block, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("block %q: want a CIDR such as 10.65.1.0/26", s)
	}
	if block.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("block %q: an IPv4-mapped IPv6 address is not allowed", s)
	}
	var room [64]byte
	if canonical := block.Masked().AppendTo(room[:0]); string(canonical) != s {
		return netip.Prefix{}, fmt.Errorf("block %q: want %s", s, string(canonical))
	}
	return block, nil
}

// blockPath is the part of a key that names a block: "ipv4/block/10.65.1.0-26".
func blockPath(block netip.Prefix) string {
	family := "ipv4"
	if block.Addr().Is6() {
		family = "ipv6"
	}
	return family + "/block/" + block.Addr().String() + "-" + strconv.Itoa(block.Bits())
}

// parseBlockPath is the inverse of blockPath.
func parseBlockPath(s string) (netip.Prefix, error) {
	family, rest, ok := strings.Cut(s, "/block/")
	if !ok || (family != "ipv4" && family != "ipv6") {
		return netip.Prefix{}, fmt.Errorf("%q: want ipv4/block/<address>-<length> or ipv6/block/…", s)
	}
	block, err := parseBlock(strings.Replace(rest, "-", "/", 1))
	if err != nil {
		return netip.Prefix{}, err
	}
	if blockPath(block) != s {
		return netip.Prefix{}, fmt.Errorf("%q: want %s", s, blockPath(block))
	}
	return block, nil
}

// ParsePath is the inverse of Path. A path that Path would not make is an error,
// so that every key has exactly one place.
func (r *Registry) ParsePath(path string) (Key, error) {
	key, err := r.parsePath(path)
	if err != nil {
		return Key{}, fmt.Errorf("parse key %q: %w", path, err)
	}
	return key, nil
}

func (r *Registry) parsePath(path string) (Key, error) {
	if rest, ok := strings.CutPrefix(path, resourceRoot); ok {
		return r.parseResourcePath(rest)
	}
	if rest, ok := strings.CutPrefix(path, serviceRoot); ok {
		return r.defs[r.byKind[KindAdvertisedService]].parseRest(rest)
	}
	if rest, ok := strings.CutPrefix(path, historyRoot); ok {
		return r.defs[r.byKind[KindIPAMHistory]].parseRest(rest)
	}
	if rest, ok := strings.CutPrefix(path, loanRoot); ok {
		return r.defs[r.byKind[KindIPAMLoan]].parseRest(rest)
	}
	rest, ok := strings.CutPrefix(path, ipamRoot)
	if !ok {
		return Key{}, fmt.Errorf("not below %s, %s, %s, %s or %s", resourceRoot, ipamRoot, serviceRoot, historyRoot, loanRoot)
	}
	if rest == "config" {
		return IPAMConfigKey(), nil
	}
	section, rest, _ := strings.Cut(rest, "/")
	switch section {
	case "handle":
		if rest == "" || strings.Contains(rest, "/") {
			return Key{}, fmt.Errorf("want %s<handle>", handleRoot)
		}
		return HandleKey(rest), nil
	case "assignment":
		block, err := parseBlockPath(rest)
		if err != nil {
			return Key{}, err
		}
		return BlockKey(block), nil
	case string(AffinityHost), string(AffinityVirtual):
		name, rest, _ := strings.Cut(rest, "/")
		block, err := parseBlockPath(rest)
		if err != nil {
			return Key{}, err
		}
		if name == "" {
			return Key{}, fmt.Errorf("the owner's name is empty")
		}
		return BlockAffinityKey(Affinity{Type: AffinityType(section), Name: name}, block), nil
	}
	return Key{}, fmt.Errorf("unknown kind of IPAM record %q", section)
}

func (r *Registry) parseResourcePath(rest string) (Key, error) {
	plural, rest, _ := strings.Cut(rest, "/")
	i, ok := r.byName[plural]
	if !ok || r.kinds[i].Plural != plural || r.defs[i].bare {
		return Key{}, fmt.Errorf("unknown kind of resource %q", plural)
	}
	return r.defs[i].parseRest(rest)
}

// parseRest reads what follows root.
func (d *definition) parseRest(rest string) (Key, error) {
	key := Key{Kind: d.info.Kind, Name: rest}
	if d.info.Namespaced {
		key.Namespace, key.Name, _ = strings.Cut(rest, "/")
	}
	if err := d.checkKey(key); err != nil {
		return Key{}, err
	}
	return key, nil
}

// Prefix is the etcd prefix below which all objects of a range lie: one kind,
// optionally one namespace, optionally names that start with namePrefix.
//
// For BlockAffinity and IPAMBlock, and for a name prefix in all namespaces, it may take
// in other keys as well: readers drop those that ParsePath gives another kind or name. A name prefix
// that includes the affinity type ("host:", "host:node1/") gives an exact one.
func (r *Registry) Prefix(kind Kind, namespace, namePrefix string) (string, error) {
	d, err := r.definition(kind)
	if err != nil {
		return "", fmt.Errorf("prefix: %w", err)
	}
	switch {
	case namespace != "" && !d.info.Namespaced:
		return "", fmt.Errorf("prefix: %s has no namespace, but %q was given", kind, namespace)
	case strings.Contains(namespace, "/"):
		return "", fmt.Errorf("prefix: the namespace %q must not contain a slash", namespace)
	}
	switch kind {
	case KindIPAMConfig:
		return configPath, nil
	case KindIPAMHandle:
		return handleRoot + namePrefix, nil
	case KindIPAMBlock:
		return blockPrefix(namePrefix), nil
	case KindBlockAffinity:
		return affinityPrefix(namePrefix), nil
	}
	switch {
	case namespace != "":
		return d.root() + namespace + "/" + namePrefix, nil
	case d.info.Namespaced:
		return d.root(), nil
	}
	return d.root() + namePrefix, nil
}

// blockPrefix narrows to one family as soon as the name shows which.
func blockPrefix(namePrefix string) string {
	text := strings.Replace(namePrefix, "/", "-", 1)
	switch {
	case strings.Contains(namePrefix, "."):
		return blockRoot + "ipv4/block/" + text
	case strings.Contains(namePrefix, ":"):
		return blockRoot + "ipv6/block/" + text
	}
	return blockRoot
}

func affinityPrefix(namePrefix string) string {
	typ, rest, ok := strings.Cut(namePrefix, ":")
	if !ok {
		return ipamRoot
	}
	prefix := ipamRoot + typ + "/"
	name, cidr, ok := strings.Cut(rest, "/")
	if !ok {
		return prefix + name
	}
	return prefix + name + "/" + strings.TrimPrefix(blockPrefix(cidr), blockRoot)
}
