package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
)

func (a *app) replaceCommand() *cobra.Command {
	var in input
	return a.writeCommand("replace -f FILE", "Change resources that exist",
		`Make resources that exist what the manifest says. UID, creation time, and fields
that a newer version wrote are kept. A resourceVersion in the manifest must be the
present one: then nobody else's change is written over.`, &in,
		func(cmd *cobra.Command) error {
			return a.write(cmd.Context(), verb{
				name: "replace", past: "replaced", updates: true,
				do: func(ctx context.Context, s *resource.Store, obj api.Object) error { return s.Replace(ctx, obj) },
			}, in)
		})
}
