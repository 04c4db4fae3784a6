package cmd

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exclusions is the annotation of a command with its groups of flags of which it takes one
// only, a line each.
const exclusions = "tortie-exclusions"

// atMostOne makes flags exclude each other. It is told to cobra, too, for completion, whose
// own words for a violation nobody sees: checkExclusions comes first.
func atMostOne(cmd *cobra.Command, flags ...string) {
	cmd.MarkFlagsMutuallyExclusive(flags...)
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[exclusions] += strings.Join(flags, " ") + "\n"
}

// checkExclusions says which of the flags that were given can't be given together.
func checkExclusions(cmd *cobra.Command) error {
	for line := range strings.Lines(cmd.Annotations[exclusions]) {
		if err := checkExclusion(cmd, strings.Fields(line)); err != nil {
			return err
		}
	}
	return nil
}

func checkExclusion(cmd *cobra.Command, group []string) error {
	var given []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		for _, name := range group {
			if f.Name == name {
				given = append(given, "--"+name)
			}
		}
	})
	if len(given) < 2 {
		return nil
	}
	return usage(cmd, "%s: %s can't be given together; choose one", strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "), enumerated(given))
}

// enumerated reads "a, b and c".
func enumerated(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
