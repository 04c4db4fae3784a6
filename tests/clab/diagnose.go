package clab

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// question is a command that a person would run in a container to see what is wrong.
type question []string

// questions are what one asks each kind of container.
func questions() map[string][]question {
	return map[string][]question{
		"node":  {{"ip", "route"}, {"ip", "-6", "route"}, {"pod", "list"}},
		"felix": {{"calicoctl", "node", "status"}},
		"frr":   {{"vtysh", "-c", "show bgp summary"}, {"ip", "route"}, {"ip", "-6", "route"}},
		"bird":  {{"birdc", "show", "protocols"}, {"birdc", "show", "route"}, {"ip", "route"}},
	}
}

// Diagnose prints what a person would want to see of a lab that doesn't work: routes,
// BGP sessions and the last lines of the logs. It prints what it can get.
func Diagnose(ctx context.Context, c Containerlab, t *Topology, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, kind := range []string{"node", "felix", "frr", "bird"} {
		for _, name := range t.Programs[kind] {
			for _, q := range questions()[kind] {
				out, err := c.Docker.Exec(ctx, t.container(name), q...)
				if err != nil {
					out = err.Error()
				}
				fmt.Fprintf(w, "\n%s$ %s\n%s\n", name, shown(q), out)
			}
		}
	}
	for _, kind := range []string{"felix", "bgpd", "frr", "bird"} {
		for _, name := range t.Programs[kind] {
			fmt.Fprintf(w, "\n%s: the end of its log\n%s\n", name, c.logTail(ctx, t.container(name)))
		}
	}
}

// logTail is the end of a container's log, which has both outputs.
func (c Containerlab) logTail(ctx context.Context, container string) string {
	cmd := c.Docker.Command(ctx, "logs", "--tail", "6", container)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// shown is a command as one types it.
func shown(q question) string {
	words := slices.Clone(q)
	for i, word := range words {
		if strings.Contains(word, " ") {
			words[i] = "'" + word + "'"
		}
	}
	return strings.Join(words, " ")
}
