package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

func (a *app) versionCommand() *cobra.Command {
	var (
		clientOnly bool
		poll       time.Duration
	)
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of calicoctl and of the cluster",
		Args:  argsThat(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.printf("Client Version:    %s\n", a.Version)
			a.printf("Git commit:        %s\n", a.Commit)
			if clientOnly {
				return nil
			}
			store, closeStore, err := a.openStore(cmd.Context())
			if err != nil {
				return fmt.Errorf("Unable to retrieve Cluster Version or Type: %w", err) //nolint:staticcheck // as upstream's users know it
			}
			defer closeStore()
			return a.clusterVersion(cmd.Context(), store, poll)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "show only what needs no datastore")
	cmd.Flags().DurationVar(&poll, "poll", 0, "look again at this interval and show what changed, until interrupted (0: once)")
	return cmd
}

// clusterVersion prints the cluster's version and type, and again whenever they
// change if it polls.
func (a *app) clusterVersion(ctx context.Context, store *resource.Store, poll time.Duration) error {
	var shown string
	for {
		text, err := clusterVersionText(ctx, store)
		switch {
		case err != nil && poll == 0:
			return err
		case err != nil:
			_, _ = fmt.Fprintln(a.Stderr, oneLine(plain(err.Error())))
			shown = ""
		case text != shown:
			a.printf("%s", text)
			shown = text
		}
		if poll == 0 {
			return nil
		}
		if pause(ctx, poll) != nil {
			return nil //nolint:nilerr // interrupted, which is how polling ends
		}
	}
}

// notSet is shown for what nobody has written yet; the programs work without it.
const notSet = "not set in ClusterInformation"

func clusterVersionText(ctx context.Context, store *resource.Store) (string, error) {
	obj, err := store.Get(ctx, api.Key{Kind: api.KindClusterInformation, Name: datastore.ClusterInformationName})
	if errors.Is(err, datastore.ErrNotFound) {
		return fmt.Sprintf("Cluster Version:   %s\nCluster Type:      %s\nDatastore:         reachable, not initialised yet\n", notSet, notSet), nil
	}
	if err != nil {
		return "", fmt.Errorf("Unable to retrieve Cluster Version or Type: %w", err) //nolint:staticcheck // as upstream's users know it
	}
	spec := obj.(*v3.ClusterInformation).Spec
	state := "reachable, ready"
	if spec.DatastoreReady == nil || !*spec.DatastoreReady {
		state = "reachable, locked (calicoctl datastore migrate unlock opens it)"
	}
	return fmt.Sprintf("Cluster Version:   %s\nCluster Type:      %s\nDatastore:         %s\n",
		orElse(spec.CalicoVersion, notSet), orElse(spec.ClusterType, notSet), state), nil
}

// pause waits, or returns the error of a context that ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-timer.Done()
	return ctx.Err()
}
