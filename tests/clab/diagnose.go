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

// Diagnose prints what a person would want to see of a lab that doesn't work: which
// containers run, routes, BGP sessions and the last lines of the logs. It prints what
// it can get.
func Diagnose(ctx context.Context, c Containerlab, t *Topology, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	states, err := c.states(ctx, t)
	if err != nil {
		fmt.Fprintf(w, "what runs of lab %s: %v\n", t.Name, err)
		return
	}
	ask := func(kind string, fn func(name, state string)) {
		for _, name := range t.Programs[kind] {
			if state := states[t.container(name)]; state != "" {
				fn(name, state)
			}
		}
	}
	for _, kind := range []string{"node", "felix", "frr", "bird"} {
		ask(kind, func(name, state string) {
			for _, q := range questions()[kind] {
				if state != "running" {
					continue
				}
				out, err := c.Docker.Exec(ctx, t.container(name), q...)
				if err != nil {
					out = err.Error()
				}
				fmt.Fprintf(w, "\n%s$ %s\n%s\n", name, shown(q), out)
			}
		})
	}
	for _, kind := range []string{"felix", "bgpd", "frr", "bird"} {
		ask(kind, func(name, state string) {
			fmt.Fprintf(w, "\n%s is %s; the end of its log:\n%s", name, state, c.logTail(ctx, t.container(name)))
		})
	}
	fmt.Fprintln(w)
}

// states are the states of a lab's containers, by name.
func (c Containerlab) states(ctx context.Context, t *Topology) (map[string]string, error) {
	out, err := c.Docker.Run(ctx, "ps", "--all", "--format", "{{.Names}} {{.State}}", "--filter", "label=containerlab="+t.Name)
	states := map[string]string{}
	for line := range strings.Lines(out) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		states[name] = state
	}
	return states, err
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
