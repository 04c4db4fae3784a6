package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// TestFlagsBehindTheCommandAreItsOwn, those in front of it the lab's, whether before or
// behind the place.
func TestFlagsBehindTheCommandAreItsOwn(t *testing.T) {
	for _, tt := range []struct{ name, line, lab, container, where, command string }{
		{"plain", "exec web ip route", "lab", "0", "web", "ip route"},
		{"dashes", "exec web -- ip -6 route", "lab", "0", "web", "ip -6 route"},
		{"the command's own", "exec web echo --name x -c 1", "lab", "0", "web", "echo --name x -c 1"},
		{"the command's own, dashes", "exec web -- echo --name x", "lab", "0", "web", "echo --name x"},
		{"the command's own dashes", "exec web echo -- --name", "lab", "0", "web", "echo -- --name"},
		{"before the place", "--name x exec -c 1 web ip route", "x", "1", "web", "ip route"},
		{"behind the place", "exec web --name x -c 1 -- ip route", "x", "1", "web", "ip route"},
		{"behind the place, no dashes", "exec web -c 1 ip -6 route", "lab", "1", "web", "ip -6 route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			root := &cobra.Command{Use: "lab", SilenceErrors: true, SilenceUsage: true}
			lab := root.PersistentFlags().String("name", "lab", "")
			exec := &cobra.Command{Use: "exec"}
			container := exec.Flags().StringP("container", "c", "0", "")
			exec.Flags().SetInterspersed(false)
			exec.RunE = inside("exec", func(_ *cobra.Command, where string, command []string) error {
				got = []string{*lab, *container, where, strings.Join(command, " ")}
				return nil
			})
			root.AddCommand(exec)
			root.SetArgs(strings.Fields(tt.line))
			if err := root.Execute(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tt.lab, tt.container, tt.where, tt.command}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCommandLinesOfExecThatAreNone: each is told what is missing, or helped.
func TestCommandLinesOfExecThatAreNone(t *testing.T) {
	for line, want := range map[string]string{
		"pod exec":                       "which command, and where? usage: bin/lab pod exec POD -- COMMAND",
		"pod exec web":                   "which command, and where?",
		"pod exec web --":                "which command, and where?",
		"pod exec web --name no-such":    "which command, and where?",
		"pod exec web --colour -- ls":    "unknown flag: --colour",
		"pod exec web --name no-such ls": "not up: lab \"no-such\"; start it with: bin/lab up --name no-such",
		"exec node1 --name no-such ls":   "not up: lab \"no-such\"",
		"exec node1 --help":              "",
	} {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(strings.Fields(line))
		err := cmd.Execute()
		switch {
		case want == "" && (err != nil || !strings.Contains(out.String(), "lab exec NODE -- COMMAND")):
			t.Errorf("%s: %v, %s", line, err, out.String())
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}
