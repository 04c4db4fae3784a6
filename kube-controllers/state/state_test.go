package state

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
	"tortie/internal/datastore"
)

func update(name string, labels map[string]string) datastore.SyncUpdate {
	key := api.Key{Kind: api.KindNode, Name: name}
	obj := &api.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	return datastore.SyncUpdate{Key: key, Entry: &datastore.Entry{Key: key, Object: obj}}
}

func TestCacheFollowsAndIndexes(t *testing.T) {
	c := New(map[string]Index{"rack": {api.KindNode, func(o api.Object) []string {
		if r := o.GetLabels()["rack"]; r != "" {
			return []string{r}
		}
		return nil
	}}})
	var seen []string
	c.Watch(api.KindNode, func(before, after *datastore.Entry, key api.Key) {
		_, shown := c.Get(key)
		switch {
		case shown != (after != nil):
			t.Errorf("%s: the cache doesn't show what is reported", key)
		case before == nil && after != nil:
			seen = append(seen, "+"+key.Name)
		case before != nil && after == nil:
			seen = append(seen, "-"+key.Name)
		default:
			seen = append(seen, "="+key.Name)
		}
	})
	a, b := api.Key{Kind: api.KindNode, Name: "a"}, api.Key{Kind: api.KindNode, Name: "b"}
	c.OnUpdates([]datastore.SyncUpdate{update("a", map[string]string{"rack": "r1"}), update("b", map[string]string{"rack": "r1"})})
	if got := c.Find("rack", "r1"); len(got) != 2 {
		t.Errorf("r1: %v", got)
	}
	c.OnUpdates([]datastore.SyncUpdate{update("a", map[string]string{"rack": "r2"})})
	if one, two := c.Find("rack", "r1"), c.Find("rack", "r2"); len(one) != 1 || one[0] != b || len(two) != 1 || two[0] != a {
		t.Errorf("r1: %v, r2: %v", one, two)
	}
	c.OnUpdates([]datastore.SyncUpdate{{Key: a, Invalid: &datastore.Invalid{Key: a}}, {Key: b}, {Path: "/x"}})
	if !c.Unreadable(a) || c.Unreadable(b) || len(c.Find("rack", "r1"))+len(c.Find("rack", "r2")) != 0 {
		t.Error("what is gone is still there")
	}
	want := []string{"+a", "+b", "=a", "-a", "-b"}
	if len(seen) != len(want) {
		t.Fatalf("%v", seen)
	}
	for i := range want {
		if seen[i] != want[i] {
			t.Errorf("%v, want %v", seen, want)
		}
	}
	select {
	case <-c.InSync():
		t.Error("in sync too early")
	default:
	}
	c.OnStatus(datastore.InSync)
	<-c.InSync()
}
