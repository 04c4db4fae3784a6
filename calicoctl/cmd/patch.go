package cmd

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"

	"tortie/calicoctl/output"
	"tortie/internal/api"
)

func (a *app) patchCommand() *cobra.Command {
	var patch, how, namespace string
	cmd := &cobra.Command{
		Use:   "patch KIND NAME -p PATCH",
		Short: "Change some fields of a resource",
		Long: `Change some fields of a resource; the others stay as they are. The patch is JSON or
YAML. Its type is

  strategic  fields to set; null removes one; lists are replaced
  merge      the same, by RFC 7386
  json       a list of operations, by RFC 6902

The result is validated as a manifest is: a field that doesn't exist is refused.

` + kindPointer,
		Example: `  calicoctl patch node node1 -p '{"spec":{"bgp":{"routeReflectorClusterID":"224.0.0.1"}}}'
  calicoctl patch ippool pool-v4 -p '{"spec":{"disabled":true}}'
  calicoctl patch bgppeer tor1 --type=json -p '[{"op":"remove","path":"/spec/password"}]'`,
		Args:              argsThat(cobra.ExactArgs(2), "KIND NAME"),
		ValidArgsFunction: a.completeKindAndNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.target(cmd, args, namespace)
			if err != nil {
				return err
			}
			apply, err := a.patcher(cmd, t.info.Kind, how, patch)
			if err != nil {
				return err
			}
			store, closeStore, err := a.openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer closeStore()
			obj, err := store.Patch(cmd.Context(), t.key(args[1]), manifestOf, apply)
			if err != nil {
				return fmt.Errorf("Failed to patch '%s' resource: %w", t.info.Kind, err) //nolint:staticcheck // as upstream's users know it
			}
			a.warnOf(cmd.Context(), store, []api.Object{obj})
			a.printf("Successfully patched 1 '%s' resource\n", t.info.Kind)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&patch, "patch", "p", "", "what to change")
	f.StringVarP(&how, "type", "t", "strategic", "strategic, merge or json")
	f.StringVarP(&namespace, "namespace", "n", "", "namespace of the resource (default \""+defaultNamespace+"\")")
	return cmd
}

// manifestOf is an object as get prints it.
func manifestOf(obj api.Object) ([]byte, error) {
	var b bytes.Buffer
	err := output.JSON(&b, obj)
	return b.Bytes(), err
}

// patcher reads a patch; what it gives changes a manifest.
func (a *app) patcher(cmd *cobra.Command, kind api.Kind, how, text string) (func([]byte) ([]byte, error), error) {
	patch, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil || len(bytes.TrimSpace([]byte(text))) == 0 {
		return nil, usage(cmd, "-p %q: want a patch in JSON or YAML", text)
	}
	isList := patch[0] == '['
	if patch[0] != '{' && !isList || isList != (how == "json") && (how == "json" || how == "merge" || how == "strategic") {
		return nil, usage(cmd, "-p %q: a patch of type json is a list of operations, any other one has the fields to set", text)
	}
	switch how {
	case "strategic":
		example, err := a.Registry.New(kind)
		if err != nil {
			return nil, err
		}
		return func(manifest []byte) ([]byte, error) {
			return strategicpatch.StrategicMergePatch(manifest, patch, example)
		}, nil
	case "merge":
		return func(manifest []byte) ([]byte, error) { return jsonpatch.MergePatch(manifest, patch) }, nil
	case "json":
		operations, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, usage(cmd, "-p %q: want a list of operations, each with op and path", text)
		}
		return operations.Apply, nil
	}
	return nil, usage(cmd, "--type %q: want strategic, merge or json", how)
}
