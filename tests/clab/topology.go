// Package clab runs the labs of this folder in containerlab: it finds or makes
// what they need, deploys one, checks every path that a packet can take, breaks
// parts of it under traffic and counts what is lost.
package clab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"tortie/tests/lab/matrix"
)

// Labs are the names of the labs, each that of its folder.
func Labs() []string { return []string{"mesh", "leaf-spine", "reflectors"} }

// Machine is a host of a topology: an address of each family with its prefix, and
// the default router, if it has one.
type Machine struct {
	Name        string
	V4, V6      netip.Prefix
	Gate, Gate6 netip.Addr
}

func (m Machine) probed() matrix.Host {
	return matrix.Host{Name: m.Name, V4: m.V4.Addr(), V6: m.V6.Addr()}
}

// Topology is what the lab's two files say.
type Topology struct {
	Name string
	// File is for containerlab, Cluster for calicoctl.
	File, Cluster string
	Nodes         []Machine // the cluster's, by name
	Outside       Machine
	// Programs are the containers by the program that one would ask about them:
	// felix, bgpd, frr, bird.
	Programs map[string][]string
	// Images are the variables whose values the topology takes its images from.
	Images []string
}

// document is the part of a topology file that is read here; containerlab reads
// all of it.
type document struct {
	Name     string `json:"name"`
	Topology struct {
		Nodes map[string]struct {
			Group string   `json:"group"`
			Exec  []string `json:"exec"`
		} `json:"nodes"`
	} `json:"topology"`
}

// Load reads a lab's topology from the folder of the labs.
func Load(dir, name string) (*Topology, error) {
	if !slices.Contains(Labs(), name) {
		return nil, fmt.Errorf("no lab %q: there are %s", name, strings.Join(Labs(), ", "))
	}
	t := &Topology{
		Name: name, Programs: map[string][]string{},
		File: filepath.Join(dir, name, name+".clab.yml"), Cluster: filepath.Join(dir, name, "cluster.yaml"),
	}
	text, err := os.ReadFile(t.File)
	if err != nil {
		return nil, err
	}
	if err := t.read(text); err != nil {
		return nil, fmt.Errorf("%s: %w", t.File, err)
	}
	return t, nil
}

func (t *Topology) read(text []byte) error {
	var doc document
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	if doc.Name != t.Name {
		return fmt.Errorf("its name is %q, not %q", doc.Name, t.Name)
	}
	for name, n := range doc.Topology.Nodes {
		program := n.Group
		if name == "border" {
			program = "bird"
		}
		t.Programs[program] = append(t.Programs[program], name)
		if n.Group != "node" && n.Group != "outside" {
			continue
		}
		m, err := readMachine(name, n.Exec)
		if err != nil {
			return err
		}
		if n.Group == "outside" {
			t.Outside = m
			continue
		}
		t.Nodes = append(t.Nodes, m)
	}
	for _, names := range t.Programs {
		slices.Sort(names)
	}
	slices.SortFunc(t.Nodes, func(a, b Machine) int { return strings.Compare(a.Name, b.Name) })
	t.Images = imageVariables(text)
	return nil
}

// readMachine takes the addresses and default routers from the commands that give
// them to the machine.
func readMachine(name string, commands []string) (Machine, error) {
	m := Machine{Name: name}
	address := regexp.MustCompile(`^ip address add (\S+) dev eth0`)
	route := regexp.MustCompile(`^ip route add default via (\S+)`)
	for _, c := range commands {
		if match := address.FindStringSubmatch(c); match != nil {
			p, err := netip.ParsePrefix(match[1])
			if err != nil {
				return m, fmt.Errorf("node %s: %q: %w", name, c, err)
			}
			*pick(p.Addr(), &m.V4, &m.V6) = p
		}
		if match := route.FindStringSubmatch(c); match != nil {
			a, err := netip.ParseAddr(match[1])
			if err != nil {
				return m, fmt.Errorf("node %s: %q: %w", name, c, err)
			}
			*pick(a, &m.Gate, &m.Gate6) = a
		}
	}
	if !m.V4.IsValid() || !m.V6.IsValid() {
		return m, fmt.Errorf("node %s: its exec gives it no IPv4 or no IPv6 address on eth0", name)
	}
	return m, nil
}

// pick is the one of the two that is for the address's family.
func pick[T any](a netip.Addr, v4, v6 *T) *T {
	if a.Is4() {
		return v4
	}
	return v6
}

// imageVariables are the variables that a topology's images come from.
func imageVariables(text []byte) []string {
	var names []string
	for _, m := range regexp.MustCompile(`image: \$\{([A-Z_]+):=`).FindAllSubmatch(text, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hop is the next hop from one node to another: the other itself on one segment,
// else the default router, which is the node's BGP peer.
func (t *Topology) hop(from, to matrix.Host, v6 bool) netip.Addr {
	for _, n := range t.Nodes {
		if n.Name != from.Name {
			continue
		}
		segment, gate := n.V4, n.Gate
		if v6 {
			segment, gate = n.V6, n.Gate6
		}
		if segment.Contains(to.Addr(v6)) {
			return to.Addr(v6)
		}
		return gate
	}
	return netip.Addr{}
}
