package cmd_test

import (
	"bytes"
	"context"
	"strings"
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
