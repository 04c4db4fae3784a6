package cmd

import (
	"context"
	"errors"
	"fmt"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/calicoctl/output"
	"tortie/calicoctl/resource"
	"tortie/internal/api"
	"tortie/internal/datastore"
)

// clusterASN is the AS number of a cluster that doesn't set its own: the first
// for private use (RFC 6996).
const clusterASN = "64512"

type getFlags struct {
	input
	format        string
	allNamespaces bool
	export        bool
}

func (a *app) getCommand() *cobra.Command {
	var f getFlags
	cmd := &cobra.Command{
		Use:   "get (KIND [NAME...] | -f FILE)",
		Short: "Show resources",
		Long: `Show resources as a table, YAML, JSON or through a Go template.

A listing as yaml or json is one <Kind>List; several named resources are an array.
Both can be given back to create, apply, replace and delete. Templates get an array
of results; a listing is one result with its objects in .Items.

` + a.kindTable(),
		ValidArgsFunction: a.completeKindAndNames(0),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.get(cmd, args, f) },
	}
	f.addFlags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.format, "output", "o", "ps", "format: "+output.Formats)
	flags.BoolVarP(&f.allNamespaces, "all-namespaces", "A", false, "list the resources of all namespaces")
	flags.BoolVar(&f.export, "export", false, "leave out what belongs to this cluster: UID, resource version, creation time (and the namespace of a named resource)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{"ps", "wide", "yaml", "json", "custom-columns=", "go-template=", "go-template-file="},
		cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
	return cmd
}

func (a *app) get(cmd *cobra.Command, args []string, f getFlags) error {
	printer, err := output.ParseFormat(f.format)
	if err != nil {
		return usage(cmd, "%v", err)
	}
	fetch, err := a.fetcher(cmd, args, f)
	if err != nil {
		return err
	}
	store, closeStore, err := a.openStore(cmd.Context())
	if err != nil {
		return err
	}
	defer closeStore()
	results, fetchErr := fetch(cmd.Context(), store)
	if hopeless(cmd.Context(), fetchErr) {
		return fetchErr
	}
	if f.export {
		for _, r := range results {
			strip(r)
		}
	}
	if len(results) > 0 || fetchErr == nil {
		env := output.Env{
			PrintNamespace: f.allNamespaces || f.namespace != "",
			DefaultASN:     func() string { return defaultASN(cmd.Context(), store) },
		}
		if err := printer.Print(a.Stdout, results, env); err != nil {
			return err
		}
	}
	return fetchErr
}

// fetch reads what a get asks for. It returns what it found even with an error.
type fetch func(ctx context.Context, store *resource.Store) ([]output.Result, error)

// fetcher checks the command line before anything is opened.
func (a *app) fetcher(cmd *cobra.Command, args []string, f getFlags) (fetch, error) {
	switch {
	case f.allNamespaces && f.namespace != "":
		return nil, usage(cmd, "get: --namespace and --all-namespaces exclude each other")
	case len(f.files) > 0 && len(args) > 0:
		return nil, usage(cmd, "get: name resources either as KIND [NAME] or with -f, not both")
	case len(f.files) > 0:
		docs, err := a.read(f.input)
		if err != nil {
			return nil, notExecuted(err, "")
		}
		keys := make([]api.Key, len(docs))
		for i, doc := range docs {
			if keys[i], err = a.Registry.KeyOf(doc.Object); err != nil {
				return nil, notExecuted(err, "")
			}
		}
		return fetchKeys(keys), nil
	case len(args) == 0:
		return nil, usage(cmd, "get: name a kind, for example: calicoctl get nodes")
	}
	t, err := a.target(cmd, args, f.namespace)
	if err != nil {
		return nil, err
	}
	if f.allNamespaces && t.info.Namespaced {
		if len(t.names) > 0 {
			return nil, usage(cmd, "get: --all-namespaces lists; name the namespace of %q with -n instead", t.names[0])
		}
		t.namespace = ""
	}
	if len(t.names) == 0 {
		return a.fetchList(t), nil
	}
	keys := make([]api.Key, len(t.names))
	for i, name := range t.names {
		keys[i] = t.key(name)
	}
	return fetchKeys(keys), nil
}

func fetchKeys(keys []api.Key) fetch {
	return func(ctx context.Context, store *resource.Store) ([]output.Result, error) {
		var (
			results []output.Result
			errs    []error
		)
		for _, key := range keys {
			obj, err := store.Get(ctx, key)
			switch {
			case err == nil:
				results = append(results, output.Result{Kind: key.Kind, Object: obj})
			case errors.Is(err, datastore.ErrNotFound):
				errs = append(errs, resource.NotFound(key))
			case hopeless(ctx, err):
				return nil, err
			default:
				errs = append(errs, resource.Unread(key, err)) // else "get <key>: …"
			}
		}
		return results, errors.Join(errs...)
	}
}

func (a *app) fetchList(t target) fetch {
	return func(ctx context.Context, store *resource.Store) ([]output.Result, error) {
		listing, err := store.List(ctx, t.info.Kind, t.namespace)
		if err != nil {
			return nil, err
		}
		for _, invalid := range listing.Invalid {
			a.warn(fmt.Sprintf("%s: can't be read and is left out: %v; %s", invalid.Path, invalid.Err, invalid.Remedy()))
		}
		return []output.Result{{
			Kind: t.info.Kind,
			List: output.NewList(t.info.Kind, listing.Revision, listing.Objects),
		}}, nil
	}
}

// strip removes what belongs to this cluster. A named object also loses its
// namespace, as upstream does it; objects of a list would then get mixed up.
func strip(r output.Result) {
	clean := func(obj api.Object) {
		obj.SetUID("")
		obj.SetResourceVersion("")
		obj.SetCreationTimestamp(metav1.Time{})
		obj.SetDeletionTimestamp(nil)
		obj.SetDeletionGracePeriodSeconds(nil)
	}
	if r.List != nil {
		r.List.ResourceVersion = ""
		for _, obj := range r.List.Items {
			clean(obj)
		}
		return
	}
	clean(r.Object)
	r.Object.SetNamespace("")
}

// defaultASN is the AS number of nodes that don't set their own.
func defaultASN(ctx context.Context, store *resource.Store) string {
	obj, err := store.Get(ctx, api.Key{Kind: api.KindBGPConfiguration, Name: "default"})
	switch {
	case errors.Is(err, datastore.ErrNotFound):
		return clusterASN
	case err != nil:
		return "unknown"
	}
	if asn := obj.(*v3.BGPConfiguration).Spec.ASNumber; asn != nil {
		return asn.String()
	}
	return clusterASN
}
