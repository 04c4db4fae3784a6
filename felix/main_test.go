package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		args           []string
		code           int
		stdout, stderr []string
	}{
		{[]string{"--version"}, 0, []string{"felix " + version}, nil},
		{[]string{"-v"}, 0, []string{"felix " + version}, nil},
		{[]string{"--help"}, 0, []string{"FELIX_", "/etc/calico/felix.cfg", "NODENAME", "ETCD_ENDPOINTS", "felix-cni.sock", "felix.lock", "journal"}, nil},
		{[]string{"-h"}, 0, []string{"FELIX_"}, nil},
		{[]string{"--verbose"}, 2, nil, []string{"--verbose", "felix --help"}},
		{[]string{"--help", "me"}, 2, nil, []string{"unknown argument"}},
	} {
		var out, errs bytes.Buffer
		if code := flags(tc.args, &out, &errs); code != tc.code {
			t.Errorf("%v: exit code %d, want %d", tc.args, code, tc.code)
		}
		for _, stream := range []struct {
			got  string
			want []string
		}{{out.String(), tc.stdout}, {errs.String(), tc.stderr}} {
			if stream.want == nil && stream.got != "" || strings.Contains(stream.got, "%!") {
				t.Errorf("%v: unexpected output %q", tc.args, stream.got)
			}
			for _, part := range stream.want {
				if !strings.Contains(stream.got, part) {
					t.Errorf("%v: %q is not in %q", tc.args, part, stream.got)
				}
			}
		}
	}
}
