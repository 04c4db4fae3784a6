package cmd

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
)

type configureFlags struct{ strict, maxBlocks, persistence string }

// setting is one thing to be configured.
type setting struct {
	name  string
	value any
	set   func(*api.IPAMConfigSpec)
}

func (a *app) ipamConfigureCommand() *cobra.Command {
	var flags configureFlags
	cmd := &cobra.Command{
		Use:   "configure",
		Short: "Change how addresses are given out",
		Long: `Change how addresses are given out in the whole cluster. What is not named stays as it
is; calicoctl ipam show --show-configuration shows what holds, and calicoctl apply -f
with kind IPAMConfig changes the rest. It takes effect at once, for what is given out
from then on.`,
		Example: `  calicoctl ipam configure --strictaffinity=true
  calicoctl ipam configure --max-blocks-per-host=4`,
		Args: argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := flags.settings(cmd)
			if err != nil {
				return err
			}
			return a.ipamConfigure(cmd.Context(), settings)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.strict, "strictaffinity", "", "true: a node gets addresses of its own blocks only; false: it borrows those of others when it must")
	f.StringVar(&flags.maxBlocks, "max-blocks-per-host", "", "how many blocks of an IP version a node may own; 0 for the default, 20")
	f.StringVar(&flags.persistence, "kubevirt-ip-persistence", "", "Enabled or Disabled: whether virtual machines of KubeVirt keep their addresses")
	return cmd
}

// settings reads the flags; at least one must be given.
func (f configureFlags) settings(cmd *cobra.Command) ([]setting, error) {
	var out []setting
	flags := cmd.Flags()
	if flags.Changed("strictaffinity") {
		strict, err := strconv.ParseBool(f.strict)
		if err != nil {
			return nil, usage(cmd, "--strictaffinity %q: want true or false", f.strict)
		}
		out = append(out, setting{"StrictAffinity", strict, func(s *api.IPAMConfigSpec) { s.StrictAffinity = strict }})
	}
	if flags.Changed("max-blocks-per-host") {
		n, err := strconv.Atoi(f.maxBlocks)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return nil, usage(cmd, "--max-blocks-per-host %q: want a number, 0 for the default", f.maxBlocks)
		}
		out = append(out, setting{"MaxBlocksPerHost", n, func(s *api.IPAMConfigSpec) { s.MaxBlocksPerHost = n }})
	}
	if flags.Changed("kubevirt-ip-persistence") {
		if f.persistence != "Enabled" && f.persistence != "Disabled" {
			return nil, usage(cmd, "--kubevirt-ip-persistence %q: want Enabled or Disabled", f.persistence)
		}
		out = append(out, setting{"KubeVirtVMAddressPersistence", f.persistence, func(s *api.IPAMConfigSpec) { s.KubeVirtVMAddressPersistence = f.persistence }})
	}
	if len(out) == 0 {
		return nil, usage(cmd, "at least one configuration option must be specified")
	}
	return out, nil
}

func (a *app) ipamConfigure(ctx context.Context, settings []setting) error {
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	var now api.IPAMConfigSpec
	err = store.ConfigureIPAM(ctx, func(spec *api.IPAMConfigSpec) {
		for _, s := range settings {
			s.set(spec)
		}
		now = *spec
	})
	if err != nil {
		return fmt.Errorf("ipam configure: %w", err)
	}
	for _, s := range settings {
		a.println("Successfully set "+s.name+" to:", s.value)
	}
	return a.warnOfConfig(ctx, store, now)
}

// warnOfConfig says what a configuration doesn't do by itself.
func (a *app) warnOfConfig(ctx context.Context, store *resource.Store, now api.IPAMConfigSpec) error {
	if !now.StrictAffinity {
		return nil
	}
	loans, err := store.Loans(ctx)
	if err != nil {
		return err
	}
	if len(loans.Borrowed) > 0 {
		a.warn(fmt.Sprintf("%d addresses are borrowed and stay so until their pods go; calicoctl ipam show --show-borrowed lists them", len(loans.Borrowed)))
	}
	return nil
}
