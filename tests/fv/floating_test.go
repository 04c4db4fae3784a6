package fv

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"tortie/internal/api"
	"tortie/tests/lab"
)

// TestFloatingAddressAndAllowedSourcesOfAPod: of a running pod, by its endpoint. The
// floating address is announced to the other node, leads to the pod from there, moves to
// another pod, and goes when the feature is disabled; what the configuration does not
// permit is a problem by name.
func TestFloatingAddressAndAllowedSourcesOfAPod(t *testing.T) {
	l := up(t, "floating", 2)
	addPods(t, l, 4, 1)
	mustConverge(t, l)
	pods, names := l.Pods(), endpointNames(t, l)
	first, second, far := pods[0], pods[1], pods[0]
	for _, p := range pods {
		switch {
		case p.Node != "node1":
			far = p
		case p.Name == first.Name:
		default:
			second = p
		}
	}
	const ext, ext6 = "10.65.250.9", "fd65::250:9"
	floating := func(p *lab.Pod) {
		t.Helper()
		change(t, l, p, names[p.Name], func(spec *api.WorkloadEndpointSpec) {
			spec.IPNATs = []api.IPNAT{{InternalIP: p.Addr(false).String(), ExternalIP: ext}, {InternalIP: p.Addr(true).String(), ExternalIP: ext6}}
		})
	}
	floating(first)
	change(t, l, first, names[first.Name], func(spec *api.WorkloadEndpointSpec) { spec.AllowSpoofedSourcePrefixes = []string{"198.51.100.0/24"} })
	status := func(says ...string) {
		t.Helper()
		until(t, fmt.Sprintf("the status to say %q", says), func() (bool, string) {
			out := run(t, l, "", "calicoctl", "node", "status")
			for _, s := range says {
				if !strings.Contains(out, s) {
					return false, out
				}
			}
			return true, out
		})
	}
	status("floating addresses are disabled; set floatingIPs: Enabled", "set workloadSourceSpoofing: Any")

	apply(t, l, manifestHead+"kind: FelixConfiguration\nmetadata: {name: default}\nspec: {floatingIPs: Enabled, workloadSourceSpoofing: Any}\n")
	device := strings.Fields(run(t, l, "", "ip", "-o", "route", "show", first.Addr(false).String()))[2]
	until(t, "the allowed sources", func() (bool, string) {
		out := run(t, l, "", "nft", "list", "set", "inet", "tortie", "allowed-sources-ipv4") + run(t, l, "", "sysctl", "-n", "net.ipv4.conf."+device+".rp_filter")
		return strings.Contains(out, `"`+device+`" . 198.51.100.0/24`) && strings.HasSuffix(strings.TrimSpace(out), "\n0"), out
	})
	reach := func(from *lab.Pod) {
		t.Helper()
		for _, to := range []string{ext, ext6} {
			until(t, from.Name+" to reach "+to, func() (bool, string) {
				var out bytes.Buffer
				err := l.PodExec(from, 0, []string{"ping", "-c1", "-W1", to}, lab.Stdio{In: strings.NewReader(""), Out: &out, Err: &out})
				return err == nil, out.String()
			})
		}
	}
	led := func(to *lab.Pod) {
		t.Helper()
		until(t, "the floating address to lead to "+to.Name, func() (bool, string) {
			out := run(t, l, "", "nft", "list", "map", "inet", "tortie", "floating-ipv4")
			return strings.Contains(out, ext+" : "+to.Addr(false).String()), out
		})
	}
	led(first)
	for _, from := range []*lab.Pod{far, second, first} {
		reach(from)
	}
	if out := run(t, l, "", "calicoctl", "bgp", "routes"); !strings.Contains(out, ext+"/32") || !strings.Contains(out, "floating address of "+first.Namespace+"/"+first.Name) {
		t.Errorf("routes:\n%s", out)
	}
	floating(second) // of the two the one that was made last has it
	change(t, l, first, names[first.Name], func(spec *api.WorkloadEndpointSpec) { spec.IPNATs = nil })
	led(second)
	reach(far)
	apply(t, l, manifestHead+"kind: FelixConfiguration\nmetadata: {name: default}\nspec: {floatingIPs: Disabled}\n")
	status("floating addresses are disabled", "set workloadSourceSpoofing: Any")
	until(t, "the floating address to go", func() (bool, string) {
		out := run(t, l, "", "nft", "list", "table", "inet", "tortie") + run(t, l, "", "ip", "route", "show", ext+"/32")
		return !strings.Contains(out, ext) && !strings.Contains(out, "198.51.100"), out
	})
}

// endpointNames are the names of the pods' endpoints.
func endpointNames(t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	names := map[string]string{}
	for _, p := range l.Pods() {
		for _, field := range strings.Fields(run(t, l, "", "calicoctl", "get", "workloadendpoints", "-n", p.Namespace, "-o", "yaml")) {
			if strings.Contains(field, "-"+strings.ReplaceAll(p.Name, "-", "--")+"-") {
				names[p.Name] = field
			}
		}
	}
	return names
}

// change changes the endpoint of a running pod.
func change(t *testing.T, l *lab.Lab, pod *lab.Pod, name string, with func(*api.WorkloadEndpointSpec)) {
	t.Helper()
	var wep api.WorkloadEndpoint
	if err := yaml.Unmarshal([]byte(run(t, l, "", "calicoctl", "get", "workloadendpoint", name, "-n", pod.Namespace, "-o", "yaml")), &wep); err != nil {
		t.Fatal(err)
	}
	with(&wep.Spec)
	text, err := yaml.Marshal(&wep)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, l, string(text))
}
