package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		args           string
		code           int
		stdout, stderr string // how they begin
	}{
		{"--version", 0, "bgpd dev\n", ""},
		{"-v", 0, "bgpd dev\n", ""},
		{"--help", 0, "bgpd speaks BGP for this node.", ""},
		{"-h", 0, "bgpd speaks BGP for this node.", ""},
		{"--frobnicate", 2, "", "bgpd: unknown argument \"--frobnicate\": see bgpd --help\n"},
		{"--version now", 2, "", "bgpd: unknown argument \"now\": see bgpd --help\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := arguments(strings.Fields(tt.args), &stdout, &stderr)
		if code != tt.code || !strings.HasPrefix(stdout.String(), tt.stdout) || tt.stdout == "" && stdout.Len() > 0 || stderr.String() != tt.stderr {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", tt.args, code, stdout.String(), stderr.String())
		}
	}
}
