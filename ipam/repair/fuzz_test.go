package repair_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"tortie/internal/api"
	"tortie/ipam/check"
	"tortie/ipam/repair"
)

// FuzzForeignValues puts any bytes under the keys of a healthy store: nothing panics,
// what is right elsewhere stays right, and what is mended is undone to the byte.
func FuzzForeignValues(f *testing.F) {
	f.Add(blockText("10.65.0.4/30", "b", holder{0, "net.c2", "b", "pod2"}), `{"block":{"10.65.0.4/30":1},"deleted":false}`, confirmed)
	f.Add(`{"cidr":"10.65.0.4/30","affinity":"x","allocations":[9,null,null,-1],"unallocated":[7,1,1],"attributes":[{}]}`, `{"block":{"x":-1}}`, `{"state":"?"}`)
	f.Add(`{"cidr":"10.65.0.4/30","affinity":"host:","allocations":[null,null,null,null],"unallocated":null,"attributes":null}`, `{"block":null}`, ``)
	f.Add(`{"cidr":"::ffff:10.65.0.4/126"}`, `[]`, `{`)
	f.Fuzz(func(t *testing.T, block, handle, affinity string) {
		w := newWorld(t)
		w.put(blockB, block)
		w.put(handle2, handle)
		w.put(affinityB, affinity)
		before := w.bytes()
		for _, found := range w.check().Findings {
			// The other block, its handle and its affinity are as right as before.
			for _, right := range []string{"IPAMBlock(10.65.0.0/30)", "IPAMHandle(net.c1)", "host:a/"} {
				if strings.Contains(found.Where, right) && found.Kind != check.HandleCount {
					t.Errorf("%s: %s: %s", found.Kind, found.Where, found.What)
				}
			}
		}
		file, _ := w.repair()
		if w.Failed() {
			return
		}
		if _, ok := w.mem.RawGet(blockA); !ok {
			t.Error("the other block is gone")
		}
		if refused := w.undo(file); len(refused) > 0 {
			t.Errorf("not undone: %v", refused)
		}
		if inexact := bytes.Contains(file, []byte(`"inexact":true`)); inexact {
			return // it says the same in other bytes
		}
		for path, value := range w.bytes() {
			if before[path] != value {
				t.Errorf("%s: %q, was %q", path, value, before[path])
			}
		}
	})
}

// FuzzUndoFile reads anything as an undo file: it is read or refused, and what is read
// changes nothing that fsck doesn't.
func FuzzUndoFile(f *testing.F) {
	f.Add([]byte(`{"tool":"calicoctl ipam fsck","clusterGUID":"g","time":"2026-01-01T00:00:00Z"}` + "\n" +
		`{"step":1,"for":"x","changes":[{"path":"` + handle1 + `","before":"{\"block\":{},\"deleted\":false}","after":null}]}` + "\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		w := newWorld(t)
		before := w.bytes()
		u, err := repair.ReadUndo(bytes.NewReader(file), w.reg)
		if err != nil {
			return
		}
		if err := u.Apply(t.Context(), w.client, w.reg, false, func(repair.Undone) {}); err != nil {
			return
		}
		ours := []string{root + "assignment/", root + "handle/", root + "host/", root + "virtual/"}
		for path, value := range w.bytes() {
			if before[path] != value && !slices.ContainsFunc(ours, func(prefix string) bool { return strings.HasPrefix(path, prefix) }) {
				t.Errorf("%s was changed", path)
			}
		}
	})
}

// A client that fails in the middle of a look or a repair ends it with that error.
func TestStoreThatGoesAwayEndsTheRepair(t *testing.T) {
	w := newWorld(t)
	w.delete(handle1)
	findings := w.check().Findings
	w.memory.SetUnavailable(true)
	m := repair.Mender{Client: w.client, Kubernetes: w.kube}
	if err := m.Mend(t.Context(), findings[0]); err == nil || errors.Is(err, repair.ErrChanged) {
		t.Errorf("error %v", err)
	}
	if _, err := check.Read(t.Context(), w.client); err == nil || !strings.Contains(err.Error(), "read every "+string(api.KindIPAMBlock)) {
		t.Errorf("error %v", err)
	}
}
