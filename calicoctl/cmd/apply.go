package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
)

func (a *app) applyCommand() *cobra.Command {
	var in input
	return a.writeCommand("apply -f FILE", "Create resources or change those that exist",
		`Create resources, or make those that exist what the manifest says. UID, creation
time, and fields that a newer version wrote are kept. A resourceVersion in the
manifest must be the present one.`, &in,
		func(cmd *cobra.Command) error {
			return a.write(cmd.Context(), verb{
				name: "apply", past: "applied", updates: true,
				do: func(ctx context.Context, s *resource.Store, obj api.Object) error { return s.Apply(ctx, obj) },
			}, in)
		})
}
