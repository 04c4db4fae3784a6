package manifests_test

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	bgpd "tortie/bgpd/daemon"
	"tortie/felix/cniserver/netconf"
	felix "tortie/felix/config"
	"tortie/felix/registration"
	controllers "tortie/kube-controllers/config"
)

// environment is what a container of a file gets on a node of the name worker-1,
// with Services where they are.
func environment(t *testing.T, file string, pod corev1.PodSpec, container string) map[string]string {
	t.Helper()
	all := objects(t, file)
	if links := *pod.EnableServiceLinks; links != strings.Contains(file, "trial") {
		t.Errorf("%s: variables of Services: %v", file, links)
	}
	data := func(name string) map[string]string { return all["ConfigMap "+name].(*corev1.ConfigMap).Data }
	env := map[string]string{}
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		if c.Name != container {
			continue
		}
		for _, from := range c.EnvFrom {
			maps.Copy(env, data(from.ConfigMapRef.Name))
		}
		for _, e := range c.Env {
			switch from := e.ValueFrom; {
			case from == nil:
				env[e.Name] = strings.Replace(e.Value, "$(CALICO_ETCD_PORT)", "tcp://[fd00:96::9]:6666", 1)
			case from.FieldRef != nil:
				env[e.Name] = map[string]string{"spec.nodeName": "worker-1", "metadata.name": "pod-1", "metadata.namespace": "kube-system"}[from.FieldRef.FieldPath]
			default:
				value, ok := data(from.ConfigMapKeyRef.Name)[from.ConfigMapKeyRef.Key]
				if !ok {
					t.Errorf("%s: ConfigMap %s has no %s", file, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
				}
				env[e.Name] = value
			}
		}
	}
	if env["ETCD_ENDPOINTS"] == "https://<ETCD_IP>:2379" { // the user's part
		env["ETCD_ENDPOINTS"] = "https://192.0.2.10:2379"
	}
	return env
}

func getenv(env map[string]string) func(string) string {
	return func(name string) string { return env[name] }
}

// mounts reports whether a container sees something at a path.
func mounts(pod corev1.PodSpec, container, path string) bool {
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		for _, m := range c.VolumeMounts {
			if c.Name == container && strings.HasPrefix(path, m.MountPath) {
				return true
			}
		}
	}
	return false
}

func installing() []string {
	return []string{"calico-etcd.yaml", "calico-vxlan.yaml", "calico-trial.yaml", "calico-trial-vxlan.yaml"}
}

func TestProgramsTakeTheirEnvironment(t *testing.T) {
	for _, file := range installing() {
		t.Run(file, func(t *testing.T) {
			node := find[*appsv1.DaemonSet](t, file, "DaemonSet calico-node").Spec.Template.Spec
			env := environment(t, file, node, "felix")
			var environ []string
			for name, value := range env {
				environ = append(environ, name+"="+value)
			}
			cfg, problems := felix.Resolve(felix.FromEnv(environ))
			if problems = append(problems, felix.FromUpstream(getenv(env))...); len(problems) > 0 {
				t.Errorf("felix: %v", problems)
			}
			if !cfg.HealthEnabled || cfg.HealthAddress != "localhost:9099" {
				t.Errorf("felix serves %s", cfg.HealthAddress)
			}
			s, err := registration.FromEnv(getenv(env))
			if err != nil || s.IPv4.Mode != registration.Detect || s.NodeRef != "worker-1" || len(s.Pools) != 1 || (s.Pools[0].Spec.VXLANMode == "Always") != strings.Contains(file, "vxlan") {
				t.Errorf("felix registers %+v, %v", s, err)
			}
			b, err := bgpd.Load(getenv(environment(t, file, node, "bgpd")), "v1")
			if err != nil || b.Node != "worker-1" || b.HealthAddress != "localhost:9097" || (b.Off != "") != strings.Contains(file, "vxlan") {
				t.Errorf("bgpd: %+v, %v", b, err)
			}
			for _, c := range node.Containers {
				if port := map[string]int32{"felix": 9099, "bgpd": 9097}[c.Name]; c.ReadinessProbe.HTTPGet.Port.IntVal != port || c.LivenessProbe.HTTPGet.Port.IntVal != port {
					t.Errorf("%s is probed at another port than %d", c.Name, port)
				}
				if b.Datastore.CAFile != "" && !mounts(node, c.Name, b.Datastore.CAFile) {
					t.Errorf("%s has no %s", c.Name, b.Datastore.CAFile)
				}
			}
			pod := find[*appsv1.Deployment](t, file, "Deployment calico-kube-controllers").Spec.Template.Spec
			k, err := controllers.Load(getenv(environment(t, file, pod, "calico-kube-controllers")))
			if err != nil || !k.Health || int32(k.MetricsPort) != pod.Containers[0].Ports[0].ContainerPort || k.Identity != "pod-1" || len(k.Warnings) > 0 {
				t.Errorf("kube-controllers: %+v, %v", k, err)
			}
			if tls := !strings.Contains(file, "trial"); (k.Datastore.CertFile != "") != tls || tls && !mounts(pod, "calico-kube-controllers", k.Datastore.CertFile) {
				t.Errorf("kube-controllers' certificate: %s", k.Datastore.CertFile)
			}
		})
	}
}

// conflist is what install-cni makes of a file's network configuration.
func conflist(t *testing.T, raw string) *libcni.NetworkConfigList {
	t.Helper()
	filled := strings.NewReplacer("__KUBERNETES_NODE_NAME__", "worker-1", "__CNI_MTU__", "0").Replace(raw)
	list, err := libcni.NetworkConfFromBytes([]byte(filled))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestRuntimesAndFelixTakeTheNetworkConfiguration(t *testing.T) {
	for _, file := range installing() {
		raw := find[*corev1.ConfigMap](t, file, "ConfigMap calico-config").Data["cni_network_config"]
		list := conflist(t, raw)
		if list.CNIVersion != "1.1.0" { // of cniVersions
			t.Errorf("%s: a runtime of today takes version %s", file, list.CNIVersion)
		}
		var old struct {
			CNIVersion string `json:"cniVersion"`
		}
		// A runtime that doesn't know cniVersions yet doesn't know 1.1.0 either.
		if err := json.Unmarshal([]byte(strings.Replace(raw, "__CNI_MTU__", "0", 1)), &old); err != nil || old.CNIVersion != "1.0.0" {
			t.Errorf("%s: a runtime of before takes version %s, %v", file, old.CNIVersion, err)
		}
		// What felix does itself it is asked for, and no other plugin.
		if len(list.Plugins) != 1 {
			t.Fatalf("%s: %d plugins", file, len(list.Plugins))
		}
		for _, capability := range []string{"portMappings", "bandwidth", "io.kubernetes.cri.pod-annotations"} {
			if !list.Plugins[0].Network.Capabilities[capability] {
				t.Errorf("%s: no capability %s", file, capability)
			}
		}
		call, err := libcni.InjectConf(list.Plugins[0], map[string]any{"name": list.Name, "cniVersion": list.CNIVersion})
		if err != nil {
			t.Fatal(err)
		}
		if conf, err := netconf.Parse("calico", call.Bytes); err != nil || conf.NodeName != "worker-1" || !conf.OwnBandwidth {
			t.Errorf("%s: %+v, %v", file, conf, err)
		}
	}
}

func TestConfigurationsWithIPv6DifferInTheAddressesAlone(t *testing.T) {
	base, err := os.ReadFile("base/10-calico.conflist")
	if err != nil {
		t.Fatal(err)
	}
	for component, addresses := range map[string]string{
		"dual-stack": `, "assign_ipv4": "true", "assign_ipv6": "true"`,
		"ipv6-only":  `, "assign_ipv4": "false", "assign_ipv6": "true"`,
	} {
		text, err := os.ReadFile("components/" + component + "/10-calico.conflist")
		if err != nil {
			t.Fatal(err)
		}
		without := strings.Replace(string(text), addresses, "", 1)
		if without == string(text) || without != string(base) {
			t.Errorf("%s is\n%s", component, text)
		}
	}
}

// TestDesignListsUpstreamsVariables keeps the page and the table in the code together.
func TestDesignListsUpstreamsVariables(t *testing.T) {
	raw, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var none, told, refused string
	for line := range strings.Lines(string(raw)) {
		switch {
		case strings.HasSuffix(line, "| any value: nothing to be told of |\n"):
			none = line
		case strings.Contains(line, "| no effect, and the log says what to do instead"):
			told = line
		case strings.HasSuffix(line, "| refused by name |\n") && strings.Contains(line, "CALICO_"):
			refused = line
		}
	}
	for _, v := range felix.Variables() {
		row := told
		switch {
		case v.Refused:
			row = refused
		case len(v.Fine) == 1 && v.Fine[0] == "*":
			row = none
		}
		if !strings.Contains(row, "`"+v.Name+"`") {
			t.Errorf("%s is not in the right row of DESIGN.md: %s", v.Name, row)
		}
	}
}

// TestFelixReachesIPAMPluginsOfOthers: under the paths that the runtime names, and without
// the right to change the programs.
func TestFelixReachesIPAMPluginsOfOthers(t *testing.T) {
	for _, file := range installing() {
		d := find[*appsv1.DaemonSet](t, file, "DaemonSet calico-node")
		paths := map[string]string{}
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.HostPath != nil {
				paths[v.Name] = v.HostPath.Path
			}
		}
		readOnly := map[string]bool{}
		for _, c := range d.Spec.Template.Spec.Containers {
			for _, m := range c.VolumeMounts {
				if c.Name == "felix" && paths[m.Name] == m.MountPath {
					readOnly[m.MountPath] = m.ReadOnly
				}
			}
		}
		for path, want := range map[string]bool{"/opt/cni/bin": true, "/var/lib/cni": false} {
			if is, mounted := readOnly[path]; !mounted || is != want {
				t.Errorf("%s: %s is mounted as itself: %v, read-only: %v", file, path, mounted, is)
			}
		}
	}
}
