package cmd

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"
)

func (a *app) ipamSplitCommand() *cobra.Command {
	var cidr, name string
	cmd := &cobra.Command{
		Use:   "split NUMBER (--cidr=CIDR | --name=POOL)",
		Short: "Split an IP pool into smaller ones",
		Long: `Split an IP pool into NUMBER pools of equal size, which must be a power of 2. They are
named split-POOL-0 and so on, are like the pool in everything but the CIDR, and take
its place in one step: blocks and addresses stay as they are, no pod notices. Then give
the parts what they shall differ in, with calicoctl apply or patch.

The datastore must be locked: calicoctl datastore migrate lock.`,
		Example: `  calicoctl datastore migrate lock
  calicoctl ipam split 2 --cidr=10.65.0.0/16
  calicoctl datastore migrate unlock`,
		Args: argsThat(cobra.ExactArgs(1), "NUMBER, how many pools to make of it"),
		RunE: func(cmd *cobra.Command, args []string) error {
			parts, err := strconv.Atoi(args[0])
			switch {
			case err != nil || parts < 2 || parts&(parts-1) != 0:
				return usage(cmd, "%q: want a power of 2, at least 2", args[0])
			case cidr == "" && name == "":
				return usage(cmd, "no name or CIDR provided. Provide a name or CIDR to denote the IP pool to split")
			case cidr != "":
				prefix, err := netip.ParsePrefix(cidr)
				if err != nil {
					return usage(cmd, "--cidr %q: want a CIDR such as 10.65.0.0/16", cidr)
				}
				cidr = prefix.String()
			}
			store, closeStore, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer closeStore()
			pool, made, err := store.SplitPool(cmd.Context(), name, cidr, parts)
			if err != nil {
				return fmt.Errorf("ipam split: %w", err)
			}
			a.printf("IP Pool %s was successfully split into %d smaller pools.\n", pool.Name, parts)
			for _, p := range made {
				a.printf("Created %s with CIDR %s.\n", p.Name, p.Spec.CIDR)
			}
			a.println("Unlock the datastore with: calicoctl datastore migrate unlock")
			return nil
		},
	}
	cmd.Flags().StringVar(&cidr, "cidr", "", "CIDR of the IP pool to split")
	cmd.Flags().StringVar(&name, "name", "", "name of the IP pool to split")
	return cmd
}
