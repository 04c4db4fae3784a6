package cmd

import (
	"github.com/spf13/cobra"

	"tortie/internal/api"
)

func (a *app) validateCommand() *cobra.Command {
	var in input
	return a.writeCommand("validate -f FILE", "Check resources without a datastore",
		`Check resources as create would, without connecting to a datastore. What depends
on the stored resources, such as overlaps with other IP pools, is not checked.`, &in,
		func(*cobra.Command) error {
			docs, err := a.prepare(in)
			if err != nil {
				return notExecuted(err, "")
			}
			kinds := make([]api.Kind, len(docs))
			for i, doc := range docs {
				kinds[i] = kindOf(doc.Object)
			}
			t := newTally(verb{name: "validate", past: "validated"}, kinds)
			t.done = len(docs)
			return t.summarise(a.printf)
		})
}
