package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	for _, tc := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--version"}, 0, "kube-controllers " + version, ""},
		{[]string{"--help"}, 0, "ENABLED_CONTROLLERS", ""},
		{[]string{"-x"}, 2, "", `unknown argument "-x"`},
		{[]string{"--version", "x"}, 2, "", "see kube-controllers --help"},
	} {
		var out, errs bytes.Buffer
		if code := run(tc.args, &out, &errs); code != tc.code || !strings.Contains(out.String(), tc.stdout) || !strings.Contains(errs.String(), tc.stderr) {
			t.Errorf("%v: %d, %q, %q", tc.args, code, out.String(), errs.String())
		}
	}
}
