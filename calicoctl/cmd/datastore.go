package cmd

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) datastoreCommand() *cobra.Command {
	return group("datastore", "Work on the datastore as a whole",
		group("migrate", "Hold the cluster still while its data is moved", append(a.absentMigrate(),
			a.readyCommand("lock", "Lock the datastore: no pods are added or removed until it is unlocked", false, "Datastore locked."),
			a.readyCommand("unlock", "Unlock the datastore", true, "Datastore unlocked."),
		)...))
}

func (a *app) readyCommand(use, short string, ready bool, done string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, closeStore, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer closeStore()
			if err := store.EnsureInitialized(cmd.Context()); err != nil {
				return err
			}
			if err := store.SetReady(cmd.Context(), ready); err != nil {
				return fmt.Errorf("datastore migrate %s: %w", use, err)
			}
			a.println(done)
			return nil
		},
	}
}
