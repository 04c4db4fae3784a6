package cmd_test

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"

	"tortie/calicoctl/cmd"
	"tortie/internal/api"
	"tortie/internal/datastore/memory"
)

// lineWatcher calls seen with every text written.
type lineWatcher struct {
	bytes.Buffer
	seen func(text string)
}

func (w *lineWatcher) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	w.seen(string(p))
	return n, err
}

func TestVersionPollShowsChangesOnly(t *testing.T) {
	reg := api.NewRegistry()
	w := &world{reg: reg, store: memory.New(reg)}
	const path = "/calico/resources/v3/projectcalico.org/clusterinformations/default"
	put := func(version string) {
		w.store.RawPut(path, []byte(`{"kind":"ClusterInformation","metadata":{"name":"default"},"spec":{"calicoVersion":"`+version+`","datastoreReady":true}}`))
	}
	put("v1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lineWatcher{seen: func(text string) {
		switch {
		case strings.Contains(text, "v1\n"):
			put("v2")
		case strings.Contains(text, "v2\n"):
			cancel()
		}
	}}
	var stderr bytes.Buffer
	if code := cmd.Run(ctx, w.deps(strings.NewReader(""), out, &stderr), []string{"version", "--poll", "1ms"}); code != 0 {
		t.Errorf("exit status %d: %s", code, stderr.String())
	}
	for _, version := range []string{"v1", "v2"} {
		if n := strings.Count(out.String(), "Cluster Version:   "+version); n != 1 {
			t.Errorf("%s was shown %d times, want once:\n%s", version, n, out.String())
		}
	}
}

// fullDisk takes a few bytes and then no more.
type fullDisk struct{ room int }

func (d *fullDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func TestResultThatCantBeWrittenFailsTheCommand(t *testing.T) {
	reg := api.NewRegistry()
	w := &world{reg: reg, store: memory.New(reg), bgpd: sampleNode()}
	for _, args := range [][]string{
		{"get", "nodes"},
		{"get", "nodes", "-o", "yaml"},
		{"get", "nodes", "-o", "json"},
		{"get", "nodes", "-o", "go-template={{range .}}{{.Kind}}{{end}}"},
		{"node", "status"},
		{"bgp", "routes"},
		{"ipam", "show"},
		{"version", "--client"},
	} {
		var stderr bytes.Buffer
		code := cmd.Run(t.Context(), w.deps(strings.NewReader(""), &fullDisk{room: 3}, &stderr), args)
		if code != 1 || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%v: exit status %d, stderr %q", args, code, stderr.String())
		}
	}
}

func TestInterruptedCommandFails(t *testing.T) {
	reg := api.NewRegistry()
	w := &world{reg: reg, store: memory.New(reg)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := cmd.Run(ctx, w.deps(strings.NewReader(""), &stdout, &stderr), []string{"get", "nodes"}); code == 0 || stdout.Len() > 0 {
		t.Errorf("exit status %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
	}
}
