package cmd

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// doomed is one object to be deleted.
type doomed struct {
	key     api.Key
	version string // the resourceVersion it must be at, or empty
	where   string // where it was named, or empty
}

func (a *app) deleteCommand() *cobra.Command {
	var (
		in            input
		skipNotExists bool
		force         bool
	)
	cmd := &cobra.Command{
		Use:   "delete (KIND NAME... | -f FILE)",
		Short: "Delete resources",
		Long: `Delete resources by kind and name, or those in manifests.

Deleting an IPPool first disables it and releases its empty blocks; workloads that
have addresses of it keep them. Deleting a Node also deletes what belongs to it:
its addresses and blocks, its BGP peers, its configurations and its host endpoints.
A Node with workload endpoints is refused: drain it first. With --force they are
deleted too: pods that still run there lose their network, and their addresses are
given to others.

` + kindPointer,
		ValidArgsFunction: a.completeKindAndNames(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, err := a.toDelete(cmd, args, in)
			if err != nil {
				return err
			}
			return a.deleteAll(cmd, objects, skipNotExists, force)
		},
	}
	in.addFlags(cmd)
	cmd.Flags().BoolVarP(&skipNotExists, "skip-not-exists", "s", false, "pass over resources that don't exist, without an error")
	cmd.Flags().BoolVar(&force, "force", false, "delete a Node with the workload endpoints that are on it")
	return cmd
}

func (a *app) toDelete(cmd *cobra.Command, args []string, in input) ([]doomed, error) {
	switch {
	case len(in.files) > 0 && len(args) > 0:
		return nil, usage(cmd, "delete: name resources either as KIND NAME or with -f, not both")
	case len(in.files) > 0:
		return a.toDeleteFromFiles(in)
	case len(args) == 0:
		return nil, usage(cmd, "delete: name what to delete: KIND NAME, or -f FILE")
	case len(args) == 1:
		return nil, usage(cmd, "delete: resource name may not be empty: delete %s NAME", args[0])
	}
	t, err := a.target(cmd, args, in.namespace)
	if err != nil {
		return nil, err
	}
	var objects []doomed
	for _, name := range t.names {
		objects = append(objects, doomed{key: t.key(name)})
	}
	return objects, nil
}

func (a *app) toDeleteFromFiles(in input) ([]doomed, error) {
	docs, err := a.read(in)
	if err != nil {
		return nil, notExecuted(err, "; nothing was changed")
	}
	var objects []doomed
	for _, doc := range docs {
		key, err := a.Registry.KeyOf(doc.Object)
		if err != nil {
			return nil, notExecuted(err, "; nothing was changed")
		}
		objects = append(objects, doomed{key: key, version: doc.Object.GetResourceVersion(), where: doc.Source.String()})
	}
	// Who names another goes first.
	slices.SortStableFunc(objects, func(a, b doomed) int { return referred(b.key.Kind) - referred(a.key.Kind) })
	return objects, nil
}

func (a *app) deleteAll(cmd *cobra.Command, objects []doomed, skipNotExists, force bool) error {
	ctx := cmd.Context()
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	kinds := make([]api.Kind, len(objects))
	for i, o := range objects {
		kinds[i] = o.key.Kind
	}
	t := newTally(verb{
		name: "delete", past: "deleted",
		skip:    func(err error) bool { return skipNotExists && errors.Is(err, datastore.ErrNotFound) },
		skipped: "do not exist",
	}, kinds)
	for _, o := range objects {
		err := store.Delete(ctx, o.key, resource.Deletion{Version: o.version, Force: force})
		t.add(o.key.Kind, o.where, err)
		if hopeless(ctx, err) {
			break
		}
	}
	return t.summarise(a.printf)
}
