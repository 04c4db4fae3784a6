package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"tortie/internal/api"
)

// labelChange is what a label command asks for.
type labelChange struct {
	key, value string
	overwrite  bool
	remove     bool
}

func (a *app) labelCommand() *cobra.Command {
	var (
		change    labelChange
		namespace string
	)
	cmd := &cobra.Command{
		Use:   "label KIND NAME (KEY=VALUE [--overwrite] | KEY --remove)",
		Short: "Set or remove a label of a resource",
		Example: `  calicoctl label nodes node1 rack=r1
  calicoctl label nodes node1 rack=r2 --overwrite
  calicoctl label nodes node1 rack --remove`,
		Args:              argsThat(cobra.ExactArgs(3), "KIND NAME KEY=VALUE, or KIND NAME KEY --remove"),
		ValidArgsFunction: a.completeKindAndNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.label(cmd, args, namespace, change)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&namespace, "namespace", "n", "", "namespace of the resource (default \""+defaultNamespace+"\")")
	flags.BoolVar(&change.overwrite, "overwrite", false, "change a label that has another value")
	flags.BoolVar(&change.remove, "remove", false, "remove the label")
	atMostOne(cmd, "overwrite", "remove")
	return cmd
}

func (a *app) label(cmd *cobra.Command, args []string, namespace string, change labelChange) error {
	t, err := a.target(cmd, args[:2], namespace)
	if err != nil {
		return err
	}
	if !hasMetadata(t.info.Kind) {
		return usage(cmd, "%s has no labels", t.info.Kind)
	}
	if err := change.parse(cmd, args[2]); err != nil {
		return err
	}
	store, closeStore, err := a.openStore(cmd.Context())
	if err != nil {
		return err
	}
	defer closeStore()
	done := ""
	var labelled api.Object
	err = store.Modify(cmd.Context(), t.key(args[1]), func(obj api.Object) error {
		labels := obj.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		var err error
		done, err = change.apply(labels, args[0], args[1])
		obj.SetLabels(labels)
		labelled = obj
		return err
	})
	if err != nil {
		return fmt.Errorf("Failed to label %s %s: %w", args[0], args[1], err) //nolint:staticcheck // as upstream's users know it
	}
	for _, text := range strangeNames([]api.Object{labelled}) {
		a.warn(text)
	}
	a.println(done)
	return nil
}

// parse reads KEY=VALUE, or KEY of a label to be removed.
func (c *labelChange) parse(cmd *cobra.Command, arg string) error {
	key, value, hasValue := strings.Cut(arg, "=")
	switch {
	case c.remove && hasValue:
		return usage(cmd, "label %q: --remove takes the key alone: %s --remove", arg, key)
	case !c.remove && !hasValue:
		return usage(cmd, "label %q: want KEY=VALUE, or KEY --remove", arg)
	}
	if bad := validation.IsQualifiedName(key); !c.remove && len(bad) > 0 {
		return usage(cmd, "label key %q: %s", key, strings.Join(bad, "; "))
	}
	if bad := validation.IsValidLabelValue(value); len(bad) > 0 {
		return usage(cmd, "label value %q: %s", value, strings.Join(bad, "; "))
	}
	c.key, c.value = key, value
	return nil
}

// apply changes labels and says so in upstream's words.
func (c *labelChange) apply(labels map[string]string, kind, name string) (string, error) {
	old, exists := labels[c.key]
	switch {
	case c.remove && !exists:
		return "", fmt.Errorf("cannot remove label: key %s does not exist", c.key)
	case c.remove:
		delete(labels, c.key)
		return fmt.Sprintf("Successfully removed label %s from %s %s", c.key, kind, name), nil
	case exists && old != c.value && !c.overwrite:
		return "", fmt.Errorf("key %s is already present with value %q; use --overwrite to set a new value", c.key, old)
	}
	labels[c.key] = c.value
	if exists {
		return fmt.Sprintf("Successfully updated label %s on %s %s", c.key, kind, name), nil
	}
	return fmt.Sprintf("Successfully set label %s on %s %s", c.key, kind, name), nil
}
