package cmd_test

import (
	"bytes"
	"strings"
	"testing"

	"tortie/calicoctl/cmd"
	"tortie/internal/api"
	"tortie/internal/datastore"
	"tortie/internal/datastore/memory"
)

// TestNoPeerIsEverWithoutItsFilter, whatever the order in the file: bgpd would end the
// session of a peer whose filter is missing for a moment.
func TestNoPeerIsEverWithoutItsFilter(t *testing.T) {
	const filter = "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: f}\nspec: {exportV4: [{action: Reject}]}\n"
	const peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nspec: {peerIP: 10.0.0.9, asNumber: 64999, filters: [f]}\n"
	for name, manifest := range map[string]string{"peer first": peer + "---\n" + filter, "filter first": filter + "---\n" + peer} {
		t.Run(name, func(t *testing.T) {
			reg := api.NewRegistry()
			w := &world{reg: reg, store: memory.New(reg)}
			// next is the revision of the next change of a kind.
			next := map[api.Kind]func() datastore.Revision{}
			for _, kind := range []api.Kind{api.KindBGPFilter, api.KindBGPPeer} {
				stream, err := w.store.Watch(t.Context(), datastore.Range{Kind: kind}, w.store.Revision())
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Stop()
				next[kind] = func() datastore.Revision { return (<-stream.Events())[0].Revision }
			}
			run := func(verb string) {
				t.Helper()
				var out, errs bytes.Buffer
				if code := cmd.Run(t.Context(), w.deps(strings.NewReader(manifest), &out, &errs), []string{verb, "-f", "-"}); code != 0 {
					t.Fatalf("%s: exit status %d: %s", verb, code, &errs)
				}
			}
			run("apply")
			if f, p := next[api.KindBGPFilter](), next[api.KindBGPPeer](); f > p {
				t.Errorf("the filter was written at %d, after the peer at %d", f, p)
			}
			run("delete")
			if f, p := next[api.KindBGPFilter](), next[api.KindBGPPeer](); f < p {
				t.Errorf("the filter was deleted at %d, before the peer at %d", f, p)
			}
		})
	}
}
