package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tortie/tests/lab/agentwire"
)

// PodSpec says what pod to make.
type PodSpec struct {
	Name      string
	Namespace string // "default" when empty
	Node      string
	// Containers is their number, at least 1. They share the pod's network
	// namespace; container i answers probes on agentwire.Port+i.
	Containers int
	// RuntimeConfig is what the runtime tells the CNI plugin of the pod: its hostPorts …
	RuntimeConfig map[string]any
}

// Pod is a pod of the lab: a pause process that holds the network namespace, and
// containers, which are processes that joined it.
type Pod struct {
	Name        string       `json:"name"`
	Namespace   string       `json:"namespace"`
	Node        string       `json:"node"`
	ContainerID string       `json:"containerID"`
	Pause       Process      `json:"pause"`
	Containers  []Process    `json:"containers"`
	Addrs       []netip.Addr `json:"addrs"`
	// RuntimeConfig is as in PodSpec.
	RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`
	// Took is how long the CNI plugin ran for ADD.
	Took time.Duration `json:"took"`
}

// processes are the pod's processes; the pause process last.
func (p *Pod) processes() []Process { return append(slices.Clone(p.Containers), p.Pause) }

// strangers are others in the pod's network namespace.
func (p *Pod) strangers() []Process {
	within := pin([]Process{p.Pause})
	defer within.release()
	return within.strangers(p.processes())
}

// Agent is the name of the agent in container i.
func (p *Pod) Agent(i int) string {
	if p.Namespace == "default" {
		return fmt.Sprintf("%s.%d", p.Name, i)
	}
	return fmt.Sprintf("%s_%s.%d", p.Namespace, p.Name, i)
}

// key is the pod's name in the state.
func (p *Pod) key() string { return p.Namespace + "/" + p.Name }

// Addr is the pod's address of one family; invalid if it has none.
func (p *Pod) Addr(v6 bool) netip.Addr {
	for _, a := range p.Addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// Pods are the lab's pods, by name.
func (l *Lab) Pods() []*Pod {
	var pods []*Pod
	l.read(func(st *state) { pods = slices.Collect(maps.Values(st.Pods)) })
	slices.SortFunc(pods, func(a, b *Pod) int { return strings.Compare(a.key(), b.key()) })
	return pods
}

// Pod finds a pod by name: "pod" in namespace default, or "namespace/pod".
func (l *Lab) Pod(name string) (*Pod, error) {
	namespace, pod := splitPod(name)
	var p *Pod
	l.read(func(st *state) { p = st.Pods[namespace+"/"+pod] })
	if p == nil {
		return nil, fmt.Errorf("no pod %s/%s in this lab; `bin/lab pod list` shows the pods", namespace, pod)
	}
	return p, nil
}

// AddPod makes a pod as the kubelet and its runtime do: the pause process first,
// then the network by the CNI plugin, then the containers.
func (l *Lab) AddPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	pod, err := l.Sandbox(spec)
	if err != nil {
		return nil, err
	}
	if err := l.Attach(ctx, pod); err != nil {
		return nil, errors.Join(err, l.RemoveSandbox(pod))
	}
	for i := range max(1, spec.Containers) {
		p, err := l.startContainer(pod, i)
		if err != nil {
			return nil, errors.Join(err, l.DelPod(ctx, pod.key()))
		}
		if err := l.change(func(*state) { pod.Containers = append(pod.Containers, p) }); err != nil {
			return nil, err
		}
	}
	return pod, nil
}

// Sandbox makes the pause process of a pod, without a network.
func (l *Lab) Sandbox(spec PodSpec) (*Pod, error) {
	if spec.Namespace == "" {
		spec.Namespace = "default"
	}
	if err := l.checkPod(spec); err != nil {
		return nil, err
	}
	pause, err := start(command{
		name: "pause of " + spec.Name, path: l.bin("lab-agent"), args: []string{"pause"},
		clone: unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	})
	if err != nil {
		return nil, err
	}
	pod := &Pod{
		Name: spec.Name, Namespace: spec.Namespace, Node: spec.Node, Pause: pause,
		ContainerID: containerID(spec, pause), RuntimeConfig: spec.RuntimeConfig,
	}
	if err := l.change(func(st *state) { st.Pods[pod.key()] = pod }); err != nil {
		return nil, err
	}
	// A runtime brings the loopback device up, by the loopback plugin.
	return pod, inNetns(pause.Netns(), func() error { return linkUp("lo") })
}

func (l *Lab) checkPod(spec PodSpec) error {
	if err := checkPodName("pod name", spec.Name); err != nil {
		return err
	}
	if err := checkPodName("namespace", spec.Namespace); err != nil {
		return err
	}
	if spec.Containers < 0 {
		return fmt.Errorf("pod %s: %d containers, want 1 at least", spec.Name, spec.Containers)
	}
	if _, err := l.st.Topology.Node(spec.Node); err != nil {
		return err
	}
	if _, err := l.Pod(spec.Namespace + "/" + spec.Name); err == nil {
		return fmt.Errorf("pod %s/%s exists already; take another name or delete it first", spec.Namespace, spec.Name)
	}
	return nil
}

// containerID is unique to a sandbox, and as long as a runtime's.
func containerID(spec PodSpec, pause Process) string {
	return fmt.Sprintf("%032x%016x%016x", []byte(spec.Name)[:min(16, len(spec.Name))], pause.PID, pause.Start)
}

// Attach gives a sandbox its network: the CNI ADD.
func (l *Lab) Attach(ctx context.Context, pod *Pod) error {
	began := time.Now()
	out, err := l.CNI(ctx, "ADD", pod)
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	took := time.Since(began)
	var result struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return fmt.Errorf("pod %s: CNI result: %w", pod.Name, err)
	}
	return l.change(func(*state) {
		pod.Took, pod.Addrs = took, nil
		for _, ip := range result.IPs {
			pod.Addrs = append(pod.Addrs, ip.Address.Addr())
		}
	})
}

func (l *Lab) startContainer(pod *Pod, i int) (Process, error) {
	dir := filepath.Join(l.dir, "agents")
	p, err := start(command{
		name: "container " + pod.Agent(i), path: l.bin("lab-agent"), net: pod.Pause.Netns(),
		args: []string{
			"serve", "-name", pod.Agent(i), "-control", l.agentSocket(pod.Agent(i)),
			"-port", fmt.Sprint(agentwire.Port + i),
		},
		log: filepath.Join(dir, pod.Agent(i)+".log"),
	})
	return p, err
}

// DelPod ends the containers, then takes the network away by CNI DEL, then ends
// the pause process: the kubelet's order.
func (l *Lab) DelPod(ctx context.Context, name string) error {
	pod, err := l.Pod(name)
	if err != nil {
		return err
	}
	stopAll(append(pod.strangers(), pod.Containers...), time.Second)
	if _, err := l.CNI(ctx, "DEL", pod); err != nil {
		return fmt.Errorf("pod %s: its containers are stopped, its network is not released: %w; delete it again when that is mended", name, err)
	}
	stopAll([]Process{pod.Pause}, time.Second)
	for i := range pod.Containers {
		_ = os.Remove(l.agentSocket(pod.Agent(i)))
	}
	return l.change(func(st *state) { delete(st.Pods, pod.key()) })
}

// RemoveSandbox ends a sandbox without a CNI call.
func (l *Lab) RemoveSandbox(pod *Pod) error {
	stopAll(append(pod.strangers(), pod.processes()...), time.Second)
	return l.change(func(st *state) { delete(st.Pods, pod.key()) })
}

// CNIError is the error object a plugin prints (CNI spec 1.1.0, section 5).
type CNIError struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
}

// Error is the code with the message.
func (e *CNIError) Error() string {
	s := fmt.Sprintf("CNI error %d: %s", e.Code, e.Msg)
	if e.Details != "" {
		s += ": " + e.Details
	}
	return s
}

// CNI runs the plugin on the pod's node with the environment of a runtime and
// returns what it printed, or its error as a *CNIError.
func (l *Lab) CNI(ctx context.Context, verb string, pod *Pod) ([]byte, error) {
	conf, err := pluginConfig(conflist(l.st.Spec), pod.RuntimeConfig)
	if err != nil {
		return nil, err
	}
	return l.CNIWith(ctx, verb, pod, conf)
}

// CNIWith is CNI with a configuration of the caller's. The context only keeps a
// call from being started: a plugin that runs is let run to its end.
func (l *Lab) CNIWith(ctx context.Context, verb string, pod *Pod, conf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	_, err := l.Plugin(pod.Node, l.bin("calico"), verb, pod, Stdio{In: bytes.NewReader(conf), Out: &out, Err: &errs})
	if err == nil {
		return out.Bytes(), nil
	}
	cniErr := &CNIError{}
	if json.Unmarshal(out.Bytes(), cniErr) == nil && cniErr.Msg != "" {
		return nil, cniErr
	}
	return nil, fmt.Errorf("CNI %s: %w: %s%s", verb, err, out.String(), errs.String())
}

// Plugin runs any CNI plugin on a node with the environment of a runtime, and
// returns how long its process took.
func (l *Lab) Plugin(node, path, verb string, pod *Pod, io Stdio) (time.Duration, error) {
	env := append(l.nodeEnv(node),
		"CNI_COMMAND="+verb, "CNI_CONTAINERID="+pod.ContainerID, "CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(path),
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s",
			pod.Namespace, pod.Name, pod.ContainerID))
	if pod.Pause.Alive() {
		env = append(env, "CNI_NETNS="+pod.Pause.Netns())
	}
	return l.run(node, []string{path}, env, io)
}

// PluginConfig is what a runtime passes to the first plugin of a conflist.
func PluginConfig(conflist string) ([]byte, error) { return pluginConfig(conflist, nil) }

func pluginConfig(conflist string, runtimeConfig map[string]any) ([]byte, error) {
	var list struct {
		Name       string           `json:"name"`
		CNIVersion string           `json:"cniVersion"`
		Plugins    []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(conflist), &list); err != nil {
		return nil, err
	}
	conf := list.Plugins[0]
	conf["name"], conf["cniVersion"] = list.Name, list.CNIVersion
	if runtimeConfig != nil {
		conf["runtimeConfig"] = runtimeConfig
	}
	return json.Marshal(conf)
}
