package cmd

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"tortie/calicoctl/manifestfile"
	"tortie/internal/api"
)

const defaultNamespace = "default"

// input is the flags of the commands that read manifests.
type input struct {
	files     []string
	recursive bool
	skipEmpty bool
	namespace string
}

func (in *input) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&in.files, "filename", "f", nil, "file or directory with the resources, - for stdin; may be repeated")
	flags.BoolVarP(&in.recursive, "recursive", "R", false, "read the directories below a directory as well")
	flags.BoolVar(&in.skipEmpty, "skip-empty", false, "accept files and directories without any resource")
	flags.StringVarP(&in.namespace, "namespace", "n", "", "namespace of resources that don't name theirs (default \""+defaultNamespace+"\")")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// require makes -f mandatory.
func (in *input) require(cmd *cobra.Command) error {
	if len(in.files) == 0 {
		return usage(cmd, "%s: name the resources with -f FILE, -f DIRECTORY or -f -", cmd.Name())
	}
	return nil
}

// read reads and decodes all manifests and settles their namespaces. With an
// error the documents are those without a fault so far, for further checks only.
func (a *app) read(in input) ([]manifestfile.Document, error) {
	docs, err := manifestfile.Read(in.files, a.Registry, manifestfile.Options{
		Recursive: in.recursive, AllowEmpty: in.skipEmpty, Stdin: a.Stdin,
	})
	errs := []error{err}
	sound := docs[:0]
	for _, doc := range docs {
		if err := a.settleNamespace(doc.Object, in.namespace); err != nil {
			errs = append(errs, &manifestfile.Error{Source: doc.At("metadata.namespace"), Err: err})
			continue
		}
		sound = append(sound, doc)
	}
	return sound, errors.Join(errs...)
}

// settleNamespace gives a namespaced object its namespace: its own, else that of
// the command line, else the default.
func (a *app) settleNamespace(obj api.Object, flag string) error {
	info, ok := a.Registry.Lookup(obj.GetObjectKind().GroupVersionKind().Kind)
	if !ok || !info.Namespaced {
		return nil
	}
	switch own := obj.GetNamespace(); {
	case own == "" && flag == "":
		obj.SetNamespace(defaultNamespace)
	case own == "":
		obj.SetNamespace(flag)
	case flag != "" && own != flag:
		return fmt.Errorf("%s(%s): metadata.namespace: is %q but the command line says -n %s; leave out one of them",
			info.Kind, obj.GetName(), own, flag)
	}
	return nil
}

// target is what the commands that take KIND NAME… work on.
type target struct {
	info      api.Info
	namespace string
	names     []string
}

func (a *app) target(cmd *cobra.Command, args []string, namespace string) (target, error) {
	info, ok := a.Registry.Lookup(args[0])
	if !ok {
		return target{}, a.unknownKind(args[0])
	}
	if !info.Namespaced {
		if namespace != "" {
			return target{}, usage(cmd, "%s is not namespaced: leave out -n", info.Kind)
		}
		return target{info: info, names: args[1:]}, nil
	}
	if namespace == "" {
		namespace = defaultNamespace
	}
	return target{info: info, namespace: namespace, names: args[1:]}, nil
}

func (t target) key(name string) api.Key {
	return api.Key{Kind: t.info.Kind, Namespace: t.namespace, Name: name}
}
