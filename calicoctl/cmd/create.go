package cmd

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

func (a *app) createCommand() *cobra.Command {
	var (
		in         input
		skipExists bool
	)
	cmd := a.writeCommand("create -f FILE", "Create resources",
		"Create resources that must not exist yet.", &in,
		func(cmd *cobra.Command) error {
			v := verb{
				name: "create", past: "created",
				do: func(ctx context.Context, s *resource.Store, obj api.Object) error { return s.Create(ctx, obj) },
				skip: func(err error) bool {
					return skipExists && errors.Is(err, datastore.ErrAlreadyExists)
				},
				skipped: "already exist",
			}
			return a.write(cmd.Context(), v, in)
		})
	cmd.Flags().BoolVar(&skipExists, "skip-exists", false, "leave resources that exist as they are, without an error")
	return cmd
}
