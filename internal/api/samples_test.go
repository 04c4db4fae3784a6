package api_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/api"
)

// sample is a key and value as upstream's own programs wrote them.
type sample struct{ path, value string }

func samples(t testing.TB) []sample {
	t.Helper()
	text, err := os.ReadFile("testdata/samples.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines)%2 != 0 || len(lines) < 80 {
		t.Fatalf("testdata/samples.txt has %d lines, want at least 40 pairs", len(lines))
	}
	var out []sample
	for i := 0; i < len(lines); i += 2 {
		out = append(out, sample{path: lines[i], value: lines[i+1]})
	}
	return out
}

func TestUpstreamSamplesSurviveDecodeAndEncodeByteForByte(t *testing.T) {
	reg := api.NewRegistry()
	for _, s := range samples(t) {
		t.Run(s.path, func(t *testing.T) {
			key, err := reg.ParsePath(s.path)
			if err != nil {
				t.Fatal(err)
			}
			if path, err := reg.Path(key); err != nil || path != s.path {
				t.Fatalf("Path(%v) = %q, %v", key, path, err)
			}
			obj, unknown, err := reg.Decode(key, []byte(s.value))
			if err != nil {
				t.Fatal(err)
			}
			if !unknown.Empty() {
				t.Error("the sample has fields that our types don't know")
			}
			if got, err := reg.KeyOf(obj); err != nil || got != key {
				t.Errorf("KeyOf = %v, %v; want %v", got, err, key)
			}
			got, err := reg.Encode(obj, api.Unknown{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.value, string(got)); diff != "" {
				t.Errorf("stored form (-upstream +ours):\n%s", diff)
			}
		})
	}
}

// TestUpstreamSamplesAreCompleteAndValid: upstream's clients have completed these
// objects, so our defaults must add nothing, and our validation accept them.
func TestUpstreamSamplesAreCompleteAndValid(t *testing.T) {
	reg := api.NewRegistry()
	for _, s := range samples(t) {
		t.Run(s.path, func(t *testing.T) {
			obj := decodeSample(t, reg, s)
			reg.Default(obj)
			if err := reg.Validate(obj); err != nil {
				t.Error(err)
			}
			got, err := reg.Encode(obj, api.Unknown{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.value, string(got)); diff != "" {
				t.Errorf("defaults changed the object (-before +after):\n%s", diff)
			}
		})
	}
}

// TestStrippedSamplesAreDefaultedToWhatUpstreamStored removes what upstream's
// clients fill in and lets Default restore it.
func TestStrippedSamplesAreDefaultedToWhatUpstreamStored(t *testing.T) {
	strip := map[string][]string{
		"IPPool":           {`"vxlanMode":"Never",`, `"ipipMode":"Never",`, `"blockSize":26,`, `"blockSize":122,`, `"nodeSelector":"all()",`, `"allowedUses":["Workload","Tunnel"],`, `,"assignmentMode":"Automatic"`},
		"BGPConfiguration": {`"serviceLoadBalancerAggregation":"Enabled",`, `,"serviceLoadBalancerAggregation":"Enabled"`},
		"FelixConfiguration": {
			`"nftablesMode":"Auto",`, `"bpfLogLevel":"",`, `"bpfConnectTimeLoadBalancing":"TCP",`,
			`"bpfHostNetworkedNATWithoutCTLB":"Enabled",`, `,"floatingIPs":"Disabled"`,
		},
		"GlobalNetworkPolicy":           {`,"labels":{"projectcalico.org/tier":"default"}`, `"tier":"default",`, `,"types":["Ingress","Egress"]`, `,"types":["Ingress"]`},
		"NetworkPolicy":                 {`,"labels":{"projectcalico.org/tier":"default"}`, `"tier":"default",`, `,"types":["Ingress"]`},
		"StagedGlobalNetworkPolicy":     {`"stagedAction":"Set",`, `,"labels":{"projectcalico.org/tier":"default"}`, `"tier":"default",`, `,"types":["Ingress"]`},
		"StagedNetworkPolicy":           {`"stagedAction":"Set",`, `,"labels":{"projectcalico.org/tier":"default"}`, `"tier":"default",`, `,"types":["Ingress"]`},
		"StagedKubernetesNetworkPolicy": {`"stagedAction":"Set",`, `,"policyTypes":["Ingress"]`},
		"Tier":                          {`"order":1000000,`, `"order":10000000,`, `,"defaultAction":"Deny"`},
		"KubeControllersConfiguration":  {`"healthChecks":"Enabled",`, `"prometheusMetricsPort":9094,`},
		"WorkloadEndpoint":              {`,"projectcalico.org/namespace":"ns1","projectcalico.org/orchestrator":"k8s"`},
	}
	reg := api.NewRegistry()
	stripped := map[string]bool{}
	for _, s := range samples(t) {
		key, err := reg.ParsePath(s.path)
		if err != nil {
			t.Fatal(err)
		}
		short := s.value
		for _, text := range strip[string(key.Kind)] {
			short = strings.Replace(short, text, "", 1)
		}
		if short == s.value {
			continue
		}
		stripped[string(key.Kind)] = true
		obj := decodeSample(t, reg, sample{s.path, short})
		reg.Default(obj)
		got, err := reg.Encode(obj, api.Unknown{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.value, string(got)); diff != "" {
			t.Errorf("%s (-upstream +ours):\n%s", s.path, diff)
		}
	}
	for kind := range strip {
		if !stripped[kind] {
			t.Errorf("no sample of %s had anything to strip", kind)
		}
	}
}

func decodeSample(t testing.TB, reg *api.Registry, s sample) api.Object {
	t.Helper()
	key, err := reg.ParsePath(s.path)
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := reg.Decode(key, []byte(s.value))
	if err != nil {
		t.Fatal(err)
	}
	return obj
}
