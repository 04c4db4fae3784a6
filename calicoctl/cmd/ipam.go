package cmd

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/datastore"
	"tortie/ipam"
)

func (a *app) ipamCommand() *cobra.Command {
	return group("ipam", "Show, check and mend the addresses of the cluster",
		a.ipamShowCommand(), a.ipamCheckCommand(), a.ipamFsckCommand(), a.ipamGCCommand(),
		a.ipamReleaseCommand(), a.ipamConfigureCommand(), a.ipamSplitCommand())
}

func (a *app) ipamShowCommand() *cobra.Command {
	var (
		ip                                       string
		blocks, borrowed, configuration, history bool
	)
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show how many addresses are in use, or who has one",
		Long: `Show how many addresses of every IP pool, and with --show-blocks of every block,
are in use; or, of one address, who has it, and with --history who had it: from when
to when, and why it was given back. Nothing is written.`,
		Example: `  calicoctl ipam show
  calicoctl ipam show --ip=10.65.1.7 --history`,
		Args: argsThat(cobra.NoArgs, "no arguments: one address is shown with --ip=ADDRESS"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var addr netip.Addr
			if ip != "" {
				var err error
				if addr, err = netip.ParseAddr(ip); err != nil {
					return usage(cmd, "--ip %q: want an IP address", ip)
				}
			}
			if history && ip == "" {
				return usage(cmd, "--history is of one address: give --ip=ADDRESS as well")
			}
			store, closeStore, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer closeStore()
			switch {
			case history:
				return a.showHistory(cmd.Context(), store, addr.Unmap())
			case ip != "":
				return a.showAddress(cmd.Context(), store, addr)
			case configuration:
				return a.showIPAMConfig(cmd.Context(), store)
			case borrowed:
				return a.showBorrowed(cmd.Context(), store)
			}
			return a.showUsage(cmd.Context(), store, blocks)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&ip, "ip", "", "show who has this address")
	flags.BoolVar(&history, "history", false, "with --ip: show who had the address, as far as is known")
	flags.BoolVar(&blocks, "show-blocks", false, "show the blocks of every pool as well")
	flags.BoolVar(&borrowed, "show-borrowed", false, "show the addresses that a node has from another node's block")
	flags.BoolVar(&configuration, "show-configuration", false, "show how addresses are given out")
	atMostOne(cmd, "ip", "show-blocks", "show-borrowed", "show-configuration")
	return cmd
}

func (a *app) showUsage(ctx context.Context, store *resource.Store, blocks bool) error {
	usage, err := ipam.Usage(ctx, store.Client)
	if err != nil {
		return err
	}
	t := a.boxed("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE")
	t.SetColumnConfigs([]table.ColumnConfig{
		{Name: "IPS TOTAL", Align: text.AlignRight},
		{Name: "IPS IN USE", Align: text.AlignRight},
		{Name: "IPS FREE", Align: text.AlignRight},
	})
	appendBlocks := func(list []ipam.BlockUsage) {
		for _, b := range list {
			if blocks {
				t.AppendRow(usageRow("Block", b.CIDR, float64(b.Total), float64(b.InUse)))
			}
		}
	}
	for _, pool := range usage.Pools {
		total, _ := new(big.Float).SetInt(pool.Total).Float64()
		t.AppendRow(usageRow("IP Pool", pool.CIDR, total, float64(pool.InUse)))
		appendBlocks(pool.Blocks)
	}
	appendBlocks(usage.Strays)
	a.println(t.Render())
	a.warnOfUnread(usage.Invalid, "is not counted")
	return nil
}

// warnOfUnread names each key that can't be read, and what follows for what is shown.
func (a *app) warnOfUnread(keys []datastore.Invalid, consequence string) {
	for _, invalid := range keys {
		a.warn(fmt.Sprintf("%s: can't be read and %s: %v", invalid.Path, consequence, invalid.Err))
	}
}

// usageRow shows numbers with five digits: an IPv6 pool has more addresses than
// anybody reads.
func usageRow(grouping string, cidr netip.Prefix, total, inUse float64) table.Row {
	percent := func(n float64) string { return fmt.Sprintf("%.5g (%.f%%)", n, 100*n/total) }
	return table.Row{grouping, cidr.String(), fmt.Sprintf("%.5g", total), percent(inUse), percent(total - inUse)}
}

// showAddress says who has an address, in upstream's words, and where it lies.
func (a *app) showAddress(ctx context.Context, store *resource.Store, addr netip.Addr) error {
	info, err := ipam.Lookup(ctx, store.Client, addr.Unmap())
	if err != nil {
		return err
	}
	if !info.Assigned {
		a.printf("%s is not assigned\n", info.Addr)
		return nil
	}
	a.printf("IP %s is in use\n", info.Addr)
	a.printf("Handle ID: %s\n", orElse(oneLine(string(info.Handle)), "<none>"))
	if len(info.Attrs) == 0 {
		a.println("No Active Owner attributes defined")
	}
	a.showAttrs("Active Owner Attributes", info.Attrs)
	a.printf("Block: %s of %s, IP pool %s\n", info.Block, orElse(oneLine(info.Affinity), "nobody"), orElse(info.Pool, "none"))
	return nil
}

func (a *app) showAttrs(title string, attrs map[string]string) {
	if len(attrs) == 0 {
		return
	}
	a.printf("%s:\n", title)
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		a.printf("  %s: %s\n", oneLine(key), oneLine(attrs[key]))
	}
}

func (a *app) showBorrowed(ctx context.Context, store *resource.Store) error {
	loans, err := store.Loans(ctx)
	if err != nil {
		return err
	}
	t := a.boxed("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO")
	for _, b := range loans.Borrowed {
		t.AppendRow(table.Row{b.Addr, oneLine(b.Node), b.Block, oneLine(b.Owner), oneLine(b.Type), oneLine(b.Holder)})
	}
	a.println(t.Render())
	if loans.Unclassified > 0 {
		a.printf("\nNote: found %d IP allocations without an explicit node association. Unable to determine if they are borrowed.\n",
			loans.Unclassified)
	}
	a.warnOfUnread(loans.Invalid, "is not shown")
	return nil
}

func (a *app) showIPAMConfig(ctx context.Context, store *resource.Store) error {
	config, err := store.IPAMConfig(ctx)
	if err != nil {
		return err
	}
	t := a.boxed("PROPERTY", "VALUE")
	t.AppendRows([]table.Row{
		{"StrictAffinity", config.StrictAffinity},
		{"AutoAllocateBlocks", config.AutoAllocateBlocks},
		{"MaxBlocksPerHost", config.MaxBlocksPerHost},
		{"IPCooldownSeconds", config.IPCooldownSeconds},
		{"KubeVirtVMAddressPersistence", orElse(config.KubeVirtVMAddressPersistence, "Enabled")},
	})
	a.println(t.Render())
	return nil
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
