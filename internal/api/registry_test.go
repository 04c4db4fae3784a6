package api_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/internal/api"
)

func TestLookupKnowsEveryNameOfCalicoctl(t *testing.T) {
	names := map[api.Kind]string{
		"BGPConfiguration":              "bgpconfiguration bgpconfigurations bgpconfig bgpconfigs",
		"BGPFilter":                     "bgpfilter bgpfilters bgpf bgpfs bf bfs",
		"BGPPeer":                       "bgppeer bgppeers bgpp bgpps bp bps",
		"CalicoNodeStatus":              "caliconodestatus caliconodestatuses",
		"ClusterInformation":            "clusterinformation clusterinformations clusterinfo clusterinfos",
		"FelixConfiguration":            "felixconfiguration felixconfigurations felixconfig felixconfigs",
		"GlobalNetworkPolicy":           "globalnetworkpolicy globalnetworkpolicies gnp gnps",
		"GlobalNetworkSet":              "globalnetworkset globalnetworksets gnetsets",
		"HostEndpoint":                  "hostendpoint hostendpoints hep heps",
		"IPPool":                        "ippool ippools ipp ipps pool pools",
		"IPReservation":                 "ipreservation ipreservations reservation reservations",
		"KubeControllersConfiguration":  "kubecontrollersconfiguration kubecontrollersconfigurations kubecontrollersconfig kubecontrollersconfigs",
		"NetworkPolicy":                 "networkpolicy networkpolicies policy policies np nps pol pols",
		"NetworkSet":                    "networkset networksets netsets",
		"Node":                          "node nodes no nos",
		"Profile":                       "profile profiles pro pros",
		"StagedGlobalNetworkPolicy":     "stagedglobalnetworkpolicy stagedglobalnetworkpolicies sgnp sgnps",
		"StagedKubernetesNetworkPolicy": "stagedkubernetesnetworkpolicy stagedkubernetesnetworkpolicies sknp",
		"StagedNetworkPolicy":           "stagednetworkpolicy stagednetworkpolicies stagedpolicy snp snps spol spols",
		"Tier":                          "tier tiers",
		"WorkloadEndpoint":              "workloadendpoint workloadendpoints wep weps",
		"BlockAffinity":                 "blockaffinity blockaffinities",
		"IPAMBlock":                     "ipamblock ipamblocks",
		"IPAMConfig":                    "ipamconfig ipamconfigs",
		"IPAMHandle":                    "ipamhandle ipamhandles",
		"AdvertisedService":             "advertisedservice advertisedservices",
		"IPAMHistory":                   "ipamhistory ipamhistories",
		"IPAMLoan":                      "ipamloan ipamloans",
	}
	reg := api.NewRegistry()
	for kind, list := range names {
		for _, name := range strings.Fields(list) {
			for _, text := range []string{name, strings.ToUpper(name)} {
				if info, ok := reg.Lookup(text); !ok || info.Kind != kind {
					t.Errorf("Lookup(%q) = %v, %v; want %s", text, info.Kind, ok, kind)
				}
			}
		}
	}
	if got := len(reg.Kinds()); got != len(names) {
		t.Errorf("the registry has %d kinds, want %d", got, len(names))
	}
	if info, ok := reg.Lookup("gadget"); ok {
		t.Errorf("Lookup(gadget) = %v", info.Kind)
	}
}

func TestNoNameMeansTwoKinds(t *testing.T) {
	owner := map[string]api.Kind{}
	for _, info := range api.NewRegistry().Kinds() {
		for _, name := range append([]string{strings.ToLower(string(info.Kind)), info.Plural}, info.Aliases...) {
			if other, ok := owner[name]; ok && other != info.Kind {
				t.Errorf("%q means %s and %s", name, other, info.Kind)
			}
			owner[name] = info.Kind
		}
	}
}

func TestNamespacedKinds(t *testing.T) {
	var got []api.Kind
	for _, info := range api.NewRegistry().Kinds() {
		if info.Namespaced {
			got = append(got, info.Kind)
		}
	}
	want := []api.Kind{"NetworkPolicy", "NetworkSet", "StagedKubernetesNetworkPolicy", "StagedNetworkPolicy", "WorkloadEndpoint", "AdvertisedService"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNewObjectsHaveTheirTypeMeta(t *testing.T) {
	reg := api.NewRegistry()
	for _, info := range reg.Kinds() {
		obj, err := reg.New(info.Kind)
		if err != nil {
			t.Fatal(err)
		}
		gvk := obj.GetObjectKind().GroupVersionKind()
		if gvk.Kind != string(info.Kind) || gvk.GroupVersion().String() != api.GroupVersion {
			t.Errorf("New(%s) is %v", info.Kind, gvk)
		}
	}
	if _, err := reg.New("ippool"); err == nil {
		t.Error("New takes a kind in the wrong case")
	}
}

func TestKeyOf(t *testing.T) {
	reg := api.NewRegistry()
	meta := metav1.ObjectMeta{Name: "x", Namespace: "ns"}
	tests := []struct {
		obj  api.Object
		want api.Key
	}{
		{&v3.IPPool{ObjectMeta: meta}, api.Key{Kind: "IPPool", Name: "x"}},
		{&v3.NetworkPolicy{ObjectMeta: meta}, api.Key{Kind: "NetworkPolicy", Namespace: "ns", Name: "x"}},
		{&api.IPAMBlock{Spec: api.IPAMBlockSpec{CIDR: "10.0.0.0/26"}}, api.Key{Kind: "IPAMBlock", Name: "10.0.0.0/26"}},
		{&api.BlockAffinity{Spec: api.BlockAffinitySpec{Node: "n1", CIDR: "10.0.0.0/26"}}, api.Key{Kind: "BlockAffinity", Name: "host:n1/10.0.0.0/26"}},
		{&api.IPAMHandle{Spec: api.IPAMHandleSpec{HandleID: "net.c"}}, api.HandleKey("net.c")},
		{&api.IPAMConfig{}, api.IPAMConfigKey()},
	}
	for _, tt := range tests {
		if got, err := reg.KeyOf(tt.obj); err != nil || got != tt.want {
			t.Errorf("KeyOf(%T) = %v, %v; want %v", tt.obj, got, err, tt.want)
		}
	}
	for _, obj := range []api.Object{
		&v3.IPPool{}, &v3.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
		&api.Node{ObjectMeta: metav1.ObjectMeta{Name: "rack1/node1"}}, &api.IPAMHandle{}, &v3.IPAMConfiguration{},
	} {
		if key, err := reg.KeyOf(obj); err == nil {
			t.Errorf("KeyOf(%T) = %v, want an error", obj, key)
		}
	}
}

func TestPrepareGivesIdentityOnce(t *testing.T) {
	reg := api.NewRegistry()
	now := time.Date(2026, 11, 22, 2, 0, 29, 999, time.FixedZone("", 3600))
	pool := v3.NewIPPool()
	reg.Prepare(pool, now, func() string { return "u1" })
	if pool.UID != "u1" || pool.CreationTimestamp.Format(time.RFC3339Nano) != "2026-11-22T01:00:29Z" {
		t.Errorf("uid %q, created %s", pool.UID, pool.CreationTimestamp.Format(time.RFC3339Nano))
	}
	reg.Prepare(pool, now.Add(time.Hour), func() string { return "u2" })
	if pool.UID != "u1" || pool.CreationTimestamp.Hour() != 1 {
		t.Error("Prepare changed the identity of an object that has one")
	}
	block := &api.IPAMBlock{}
	reg.Prepare(block, now, func() string { return "u3" })
	if block.UID != "" {
		t.Error("Prepare gave an IPAM record a uid")
	}
}

// TestDeepCopiesShareNothing fills every field of our own types, and checks that
// no memory reached from the copy is reached from the original.
func TestDeepCopiesShareNothing(t *testing.T) {
	for _, obj := range []api.Object{
		&api.Node{}, &api.WorkloadEndpoint{}, &api.BlockAffinity{}, &api.IPAMBlock{}, &api.IPAMHandle{}, &api.IPAMConfig{},
	} {
		t.Run(fmt.Sprintf("%T", obj), func(t *testing.T) {
			fill(reflect.ValueOf(obj).Elem())
			clone := obj.DeepCopyObject()
			if diff := cmp.Diff(obj, clone); diff != "" {
				t.Errorf("the copy differs (-original +copy):\n%s", diff)
			}
			memory := map[uintptr]string{}
			pointers(reflect.ValueOf(obj), "", func(path string, p uintptr) { memory[p] = path })
			pointers(reflect.ValueOf(clone), "", func(path string, p uintptr) {
				if _, shared := memory[p]; shared {
					t.Errorf("%s is shared", path)
				}
			})
		})
	}
}

// fill sets everything below v to something that is not zero.
func fill(v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(1, 0).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() {
				fill(field)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Map:
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(elem)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, elem)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else if v.CanUint() {
			v.SetUint(7)
		}
	}
}

// pointers reports the memory that a value refers to.
func pointers(v reflect.Value, path string, report func(string, uintptr)) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		return // immutable
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			report(path, v.Pointer())
			pointers(v.Elem(), path, report)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			pointers(v.Field(i), path+"."+v.Type().Field(i).Name, report)
		}
	case reflect.Slice:
		if v.Len() > 0 {
			report(path, v.Pointer())
		}
		for i := range v.Len() {
			pointers(v.Index(i), fmt.Sprintf("%s[%d]", path, i), report)
		}
	case reflect.Map:
		report(path, v.Pointer())
	}
}

func TestKubernetesName(t *testing.T) {
	node := &api.Node{Spec: api.NodeSpec{OrchRefs: []api.OrchRef{{Orchestrator: "x", NodeName: "no"}, {Orchestrator: "k8s", NodeName: "yes"}}}}
	if got := node.KubernetesName(); got != "yes" {
		t.Errorf("%q", got)
	}
	if got := (&api.Node{}).KubernetesName(); got != "" {
		t.Errorf("%q", got)
	}
}
