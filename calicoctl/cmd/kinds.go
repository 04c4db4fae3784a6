package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

// completionPatience is how long a shell waits for names from the datastore.
const completionPatience = 2 * time.Second

// kindPointer says where the list of kinds is: help shows it in one place only.
const kindPointer = "The resource types are listed by calicoctl get --help."

// unknownKind is the error for a name that is no kind's, with the kinds probably
// meant.
func (a *app) unknownKind(name string) error {
	var names [][]string
	for _, info := range a.Registry.Kinds() {
		names = append(names, append([]string{strings.ToLower(string(info.Kind)), info.Plural}, info.Aliases...))
	}
	hint := ""
	if near := nearest(name, names); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{text: fmt.Sprintf("resource type '%s' is not supported%s; calicoctl get --help lists the types", name, hint)}
}

func (a *app) kindNames() []string {
	var names []string
	for _, info := range a.Registry.Kinds() {
		names = append(names, strings.ToLower(string(info.Kind)))
	}
	slices.Sort(names)
	return names
}

// kindTable is the list of kinds for help texts.
func (a *app) kindTable() string {
	var b strings.Builder
	b.WriteString("Resource types, case-insensitive, with their other names:\n")
	for _, info := range a.Registry.Kinds() {
		names := append([]string{info.Plural}, info.Aliases...)
		names = slices.DeleteFunc(names, func(n string) bool { return n == strings.ToLower(string(info.Kind)) })
		b.WriteString("  " + strings.ToLower(string(info.Kind)) + " (" + strings.Join(slices.Compact(names), ", ") + ")\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// completeKindAndNames completes KIND, then the names of the objects of that
// kind as the datastore has them.
func (a *app) completeKindAndNames(maxNames int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		const directive = cobra.ShellCompDirectiveNoFileComp
		if len(args) == 0 {
			return withPrefix(a.kindNames(), toComplete), directive
		}
		if maxNames > 0 && len(args) > maxNames {
			return nil, directive
		}
		namespace, _ := cmd.Flags().GetString("namespace")
		t, err := a.target(cmd, args[:1], namespace)
		if err != nil {
			return nil, directive
		}
		names, err := a.names(cmd.Context(), t)
		if err != nil {
			return nil, directive | cobra.ShellCompDirectiveError
		}
		return withPrefix(slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args[1:], n) }), toComplete), directive
	}
}

func (a *app) names(ctx context.Context, t target) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, completionPatience)
	defer cancel()
	store, closeStore, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	defer closeStore()
	snap, err := store.Client.List(ctx, datastore.Range{Kind: t.info.Kind, Namespace: t.namespace})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range snap.Entries {
		names = append(names, entry.Object.GetName())
	}
	return names, nil
}

func withPrefix(words []string, prefix string) []string {
	var match []string
	for _, w := range words {
		if strings.HasPrefix(w, strings.ToLower(prefix)) || strings.HasPrefix(w, prefix) {
			match = append(match, w)
		}
	}
	return match
}

// hasMetadata tells whether objects of a kind are stored with their metadata:
// the records of the allocator, its history, loans and advertised services are not.
func hasMetadata(kind api.Kind) bool {
	return !slices.Contains([]api.Kind{
		api.KindBlockAffinity, api.KindIPAMBlock, api.KindIPAMConfig, api.KindIPAMHandle, api.KindAdvertisedService, api.KindIPAMHistory, api.KindIPAMLoan,
	}, kind)
}
