// Package cleanup takes away what Tortie has on a node, for good: an uninstallation,
// after which no program of ours runs there. What it finds is known by its marks, so
// it needs neither the datastore nor a memory, and may be repeated.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"sigs.k8s.io/knftables"

	"tortie/felix/hostways"
	"tortie/felix/ipip"
	"tortie/felix/podnet"
	"tortie/felix/vxlan"
	"tortie/felix/wireguard"
	"tortie/internal/kernel"
	"tortie/internal/lockfile"
)

// Kernel is what is read and changed; *kernel.Handle is one.
type Kernel interface {
	Links() ([]kernel.Link, error)
	Routes(ctx context.Context, f kernel.RouteFilter) ([]kernel.Route, error)
	DeleteRoute(r kernel.Route) error
	NextHopObjects(ctx context.Context, protocol kernel.Protocol) ([]kernel.NextHopObject, error)
	Apply(changes ...kernel.Change) []error
	DeleteLink(index int) error
	RemoveRedirect(ctx context.Context, link int) error
	Rules(ctx context.Context, protocol kernel.Protocol) ([]kernel.Rule, error)
	DeleteRule(r kernel.Rule) error
	ipip.Remover
}

// Config says what to take away, and where.
type Config struct {
	Kernel Kernel
	// NFT is the table, ARP the one of that name for packets of ARP; nil where there is no
	// nft command, and so nothing of ours.
	NFT, ARP knftables.Interface
	// Root is what stands before the paths of files: where the node's are mounted.
	Root string
	// Pods: also what the pods that still run use, so that they lose the network. Else
	// their devices and the routes to them stay, and go with the pods.
	Pods bool
	// Say tells, line by line, what was taken away.
	Say func(format string, args ...any)
}

// folders hold files of ours and nothing else.
func folders() []string {
	return []string{"/var/run/calico", "/var/lib/calico", "/var/lib/calico-etcd"}
}

// trialEtcd is the database of the trial's etcd, which it has locked while it runs.
const trialEtcd = "/var/lib/calico-etcd/member/snap/db"

// refuseWhileEtcdRuns: its data would be gone from under it, and with them all that
// is known of pods that still run.
func refuseWhileEtcdRuns(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("clean up: the trial's etcd still runs (it has locked %s): delete what the overlay made first: kubectl delete -k", path)
	}
	return nil
}

// Run takes everything away. What fails keeps nothing else from going. It refuses
// while felix or bgpd runs, which would put things back, and while the trial's etcd does.
func Run(ctx context.Context, cfg Config) error {
	for _, program := range []string{"felix", "bgpd"} {
		if _, err := os.Stat(filepath.Join(cfg.Root, folders()[0])); errors.Is(err, fs.ErrNotExist) {
			break // nobody has a lock where its folder isn't, and it is not to be made
		}
		release, err := lockfile.Acquire(filepath.Join(cfg.Root, folders()[0], program+".lock"), program)
		if err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
		defer release()
	}
	if err := refuseWhileEtcdRuns(filepath.Join(cfg.Root, trialEtcd)); err != nil {
		return err
	}
	// Before the device that they lead to: else what other nodes are sent would be lost.
	ruleErr := cfg.routingRules(ctx)
	pods, err := cfg.devices(ctx)
	return errors.Join(ruleErr, err, cfg.routes(ctx, pods), cfg.nextHops(ctx), cfg.rules(ctx), cfg.files())
}

// devices takes away tunnels and left-over ends of pods' devices, and returns those
// of pods, which are only taken away when asked for.
func (cfg Config) devices(ctx context.Context) (pods map[int]string, err error) {
	links, err := cfg.Kernel.Links()
	if err != nil {
		return nil, fmt.Errorf("look for devices: %w", err)
	}
	pods = map[int]string{}
	secure := wireguard.Devices(filepath.Join(cfg.Root, "/var/lib/calico/felix", wireguard.KeyFile))
	errs := []error{cfg.redirects(ctx, links)}
	for _, l := range links {
		switch pod := l.Kind == "veth" && podnet.IsDeviceName(l.Name); {
		case pod && !cfg.Pods:
			pods[l.Index] = l.Name
			cfg.Say("device %s: left to its pod, with which it goes", l.Name)
			continue
		case !pod && !isAside(l) && !isTunnel(l) && !isShaper(l) && !(wireguard.Ours(l) && slices.Contains(secure, l.Name)):
			continue
		}
		err := cfg.remove(l)
		if err != nil && !errors.Is(err, kernel.ErrNotFound) {
			errs = append(errs, fmt.Errorf("remove device %s: %w", l.Name, err))
			continue
		}
		cfg.Say("device %s: removed", l.Name)
	}
	return pods, errors.Join(errs...)
}

// redirects has pods send past the devices that shaped what they send: those go, and
// with them all that would be led there.
func (cfg Config) redirects(ctx context.Context, links []kernel.Link) error {
	if !slices.ContainsFunc(links, isShaper) {
		return nil
	}
	var errs []error
	for _, l := range links {
		if l.Kind == "veth" && podnet.IsDeviceName(l.Name) {
			errs = append(errs, cfg.Kernel.RemoveRedirect(ctx, l.Index))
		}
	}
	return errors.Join(errs...)
}

func isShaper(l kernel.Link) bool {
	return l.Kind == "ifb" && strings.HasPrefix(l.Name, kernel.PodShaper)
}

// isAside: felix had taken it out of service.
func isAside(l kernel.Link) bool {
	return (l.Kind == "veth" || l.Kind == "ifb") && strings.HasPrefix(l.Name, kernel.PodLinkAside)
}

func isTunnel(l kernel.Link) bool {
	return l.Kind == "vxlan" && vxlan.Owns(l.Name) || ipip.Owns(l)
}

// remove: the kernel keeps the device of IPIP, which is left as nobody's.
func (cfg Config) remove(l kernel.Link) error {
	if ipip.Owns(l) {
		return ipip.Remove(cfg.Kernel, l)
	}
	return cfg.Kernel.DeleteLink(l.Index)
}

// routes takes away all routes of ours but those over the devices of pods.
func (cfg Config) routes(ctx context.Context, pods map[int]string) error {
	var errs []error
	for _, protocol := range []kernel.Protocol{kernel.ProtocolFelix, kernel.ProtocolBGP} {
		routes, err := cfg.Kernel.Routes(ctx, kernel.RouteFilter{Protocol: protocol})
		if err != nil {
			errs = append(errs, err)
		}
		for _, r := range routes {
			if _, used := pods[r.Link]; used {
				continue
			}
			if err := cfg.Kernel.DeleteRoute(r); err != nil && !errors.Is(err, kernel.ErrNotFound) {
				errs = append(errs, err)
				continue
			}
			cfg.Say("route to %s: removed", r.Dst)
		}
	}
	return errors.Join(errs...)
}

// nextHops takes away the next-hop objects that bgpd's routes referred to, groups before
// their members.
func (cfg Config) nextHops(ctx context.Context) error {
	objects, err := cfg.Kernel.NextHopObjects(ctx, kernel.ProtocolBGP)
	if err != nil && !errors.Is(err, kernel.ErrNotSupported) {
		return err
	}
	var errs []error
	for _, groups := range []bool{true, false} {
		for _, o := range objects {
			if (o.Group != nil) != groups {
				continue
			}
			if err := cfg.Kernel.Apply(kernel.NextHopChange{Op: kernel.Delete, Object: o})[0]; err != nil {
				errs = append(errs, err)
				continue
			}
			cfg.Say("next-hop object %d: removed", o.ID)
		}
	}
	return errors.Join(errs...)
}

// rules takes away the whole tables, with what others may have put in them: felix, which
// works on beside them, spares that, but a table of this name is ours.
func (cfg Config) rules(ctx context.Context) error {
	var errs []error
	for _, t := range []struct {
		nft    knftables.Interface
		family knftables.Family
	}{{cfg.NFT, Family}, {cfg.ARP, knftables.ARPFamily}} {
		if t.nft == nil {
			continue
		}
		if _, err := t.nft.ListAll(ctx); knftables.IsNotFound(err) && t.family != Family {
			continue // the kernel need not know the family
		}
		tx := t.nft.NewTransaction()
		tx.Add(&knftables.Table{}) // one that is absent can't be deleted
		tx.Delete(&knftables.Table{})
		if err := t.nft.Run(ctx, tx); err != nil {
			errs = append(errs, fmt.Errorf("remove the nftables table %s %s: %w", t.family, Table, err))
			continue
		}
		cfg.Say("nftables table %s %s: removed", t.family, Table)
	}
	return errors.Join(errs...)
}

// routingRules takes away those of felix, and the routes in the tables that they lead to.
func (cfg Config) routingRules(ctx context.Context) error {
	routes, err := hostways.Routes(ctx, cfg.Kernel)
	errs := []error{err}
	for _, r := range routes {
		errs = append(errs, cfg.Kernel.DeleteRoute(r))
	}
	rules, err := cfg.Kernel.Rules(ctx, kernel.ProtocolFelix)
	errs = append(errs, err)
	for _, r := range rules {
		if err := cfg.Kernel.DeleteRule(r); err != nil {
			errs = append(errs, err)
			continue
		}
		cfg.Say("routing rule %s: removed", r)
	}
	return errors.Join(errs...)
}

// The name of the table.
const (
	Family = knftables.InetFamily
	Table  = "tortie"
)

func (cfg Config) files() error {
	var errs []error
	for _, folder := range folders() {
		path := filepath.Join(cfg.Root, folder)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		err := os.RemoveAll(path)
		// A folder with a file system of its own can't go; that it is empty is enough.
		if entries, readErr := os.ReadDir(path); errors.Is(err, syscall.EBUSY) && readErr == nil && len(entries) == 0 {
			cfg.Say("%s: emptied; it stays, for a file system is mounted there", path)
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove files: %w", err))
			continue
		}
		cfg.Say("%s: removed", path)
	}
	return errors.Join(errs...)
}
