package ruleset

import (
	"strings"
	"testing"

	"sigs.k8s.io/knftables"
)

// TestCheckIsOfWhatWasMadeToStand: what is desired since, and not written yet, is no
// difference; what could not be written is one.
func TestCheckIsOfWhatWasMadeToStand(t *testing.T) {
	nft := knftables.NewFake(Family, Table)
	shape := func(verdict string) Shape {
		return Shape{Sets: []Set{{Name: "ports", Type: "inet_service"}}, Chains: []Chain{{Name: "chain", Rules: []Rule{{Text: "tcp dport @ports " + verdict, Does: "it"}}}}}
	}
	o := New(nft, shape("drop"), "")
	want := func(when, says string) {
		t.Helper()
		lines, err := o.Check(t.Context(), "tests")
		if got := strings.Join(lines, "; "); got != says || err != nil {
			t.Errorf("%s: %q, %v; want %q", when, got, err, says)
		}
	}
	apply := func() error { _, err := o.Apply(t.Context()); return err }
	want("nothing", "")
	o.Set(Contents{"ports": {"80"}})
	want("not written yet", "the rules for tests are not as they should be: chain chain, set ports")
	if err := apply(); err != nil {
		t.Fatal(err)
	}
	want("written", "")
	o.Set(Contents{"ports": {"80", "81"}})
	want("other contents are desired", "")
	o.Reshape(shape("accept"), Contents{"ports": {"80"}})
	want("another shape is desired", "")
	o.Reshape(Shape{Chains: []Chain{{Name: "chain", Rules: []Rule{{Text: "jump nowhere", Does: "it"}}}}}, Contents{})
	if apply() == nil {
		t.Fatal("a jump to nowhere is possible")
	}
	want("could not be written", "the rules for tests are not as they should be: rules of chain chain")
	o.Reshape(shape("accept"), Contents{"ports": {"80"}})
	if err := apply(); err != nil {
		t.Fatal(err)
	}
	want("written again", "")
	tx := nft.NewTransaction()
	tx.Flush(&knftables.Set{Name: "ports"})
	if err := nft.Run(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	want("an element is gone", "the rules for tests are not as they should be: elements of set ports")
}
