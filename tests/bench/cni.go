package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"tortie/internal/control/cniwire"
	"tortie/tests/lab"
)

// addOne and addBurst are the rows that floors stand beside.
const (
	addOne   = "CNI ADD, one at a time"
	addBurst = "CNI ADD, 32 at once, per pod"
)

// atOnce is how many plugins run at the same time in the burst.
const atOnce = 32

// perMinute is the time of a pod when a processor core starts 500 of them in a minute.
func perMinute() string { return fmt.Sprintf("≤ %d ms", 60_000/500/runtime.NumCPU()) }

// bench holds a run's lab and results.
type bench struct {
	lab           *lab.Lab
	bin           string
	rounds, burst int
	rows          []row
	empty         string // an empty static Go program
	installed     string // the plugin, where it was copied to
	alone         sample // a burst of ADDs without the plugin's processes
}

// plugin is one CNI plugin under measurement.
type plugin struct {
	path string
	conf []byte
}

func (b *bench) ours() (plugin, error) {
	p, err := ours(b.bin, nil)
	if b.installed != "" {
		p.path = b.installed
	}
	return p, err
}

// ours is our plugin, for IPv4 only, as the peers are, with more keys.
func ours(bin string, more map[string]any) (plugin, error) {
	conf, err := lab.PluginConfig(lab.Conflist)
	if err != nil {
		return plugin{}, err
	}
	var m map[string]any
	if err := json.Unmarshal(conf, &m); err != nil {
		return plugin{}, err
	}
	m["ipam"] = map[string]any{"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "false"}
	maps.Copy(m, more)
	if conf, err = json.Marshal(m); err != nil {
		return plugin{}, err
	}
	path, err := filepath.Abs(filepath.Join(bin, "calico"))
	return plugin{path: path, conf: conf}, err
}

// peer is ptp with host-local: the same wiring (veth, /32 route) with no daemon,
// no datastore and no cluster behind it.
func (b *bench) peer() plugin {
	return plugin{path: "/usr/lib/cni/ptp", conf: []byte(`{"cniVersion":"1.0.0","name":"ptp","type":"ptp",
		"ipam":{"type":"host-local","subnet":"10.99.0.0/16","dataDir":"/run/host-local","routes":[{"dst":"0.0.0.0/0"}]}}`)}
}

// call runs a plugin on the node as a runtime does and measures the whole process.
func (b *bench) call(p plugin, verb string, pod *lab.Pod) (time.Duration, error) {
	var out, errs bytes.Buffer
	took, err := b.lab.Plugin("node1", p.path, verb, pod, lab.Stdio{In: bytes.NewReader(p.conf), Out: &out, Err: &errs})
	if err != nil {
		return took, fmt.Errorf("%s %s: %w: %s%s", p.path, verb, err, out.String(), errs.String())
	}
	return took, nil
}

// process compares the plugin with an empty static Go program. What answers is a
// bare socket, so that nothing but the process itself is measured.
func (b *bench) process(ctx context.Context) error {
	socket := filepath.Join(filepath.Dir(b.empty), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer l.Close()
	go answerAll(l)
	p, err := b.ours()
	if err != nil {
		return err
	}
	pod, err := b.lab.Sandbox(lab.PodSpec{Name: "process", Node: "node1"})
	if err != nil {
		return err
	}
	env := append(os.Environ(), "CALICO_CNI_SOCKET="+socket, "CNI_COMMAND=ADD", "CNI_CONTAINERID=bench",
		"CNI_NETNS="+pod.Pause.Netns(), "CNI_IFNAME=eth0", "CNI_PATH="+b.bin)
	var ours, theirs sample
	for range 2 * b.rounds {
		cmd := exec.CommandContext(ctx, p.path)
		cmd.Env, cmd.Stdin = env, bytes.NewReader(p.conf)
		began := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("plugin against a bare socket: %w: %s", err, out)
		}
		ours = append(ours, time.Since(began))
		began = time.Now()
		if err := exec.CommandContext(ctx, b.empty).Run(); err != nil {
			return err
		}
		theirs = append(theirs, time.Since(began))
	}
	b.rows = append(b.rows, row{"plugin process alone", "empty static Go program", ours, theirs, "≤ 1.4"})
	return b.lab.RemoveSandbox(pod)
}

func buildEmpty(ctx context.Context, dir string) (string, error) {
	src, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "linked", "empty")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", out, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the empty program: %w: %s", err, msg)
	}
	return install(out, dir)
}

// install copies a program into a directory, as install-cni does and dpkg did with the
// peer. What the linker wrote lies in the page cache in single pages until it is read
// anew, and takes a tenth longer to start.
func install(program, dir string) (string, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, filepath.Base(program))
	return path, os.WriteFile(path, content, 0o755) //nolint:gosec // a program
}

// answerAll answers every request with a minimal result.
func answerAll(l net.Listener) {
	result := json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.65.0.1/32"}]}`)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if _, err := cniwire.ReadRequest(conn); err == nil {
				_ = cniwire.Write(conn, cniwire.Response{Result: result})
			}
		}()
	}
}

// oneAtATime measures calls on an idle machine.
func (b *bench) oneAtATime(ctx context.Context) error {
	add, del, err := b.inTurn(ctx, "one", b.rounds)
	if err != nil {
		return err
	}
	b.rows = append(b.rows,
		row{addOne, "ptp + host-local", add[0], add[1], "≤ 0.35"},
		row{"CNI DEL, one at a time", "ptp + host-local", del[0], del[1], "≤ 0.25"})
	return nil
}

// onBusyMachine measures calls while every processor has other work: so are nodes that
// start many pods, and so was the machine that the targets come from.
func (b *bench) onBusyMachine(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var loops []*exec.Cmd
	defer func() {
		stop()
		for _, loop := range loops {
			_ = loop.Wait() // it was killed
		}
	}()
	for range runtime.NumCPU() + 1 {
		loop := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := loop.Start(); err != nil {
			return fmt.Errorf("keep the machine busy: %w", err)
		}
		loops = append(loops, loop)
	}
	add, del, err := b.inTurn(ctx, "busy", b.rounds/2+1)
	if err != nil {
		return err
	}
	b.rows = append(b.rows,
		row{"… on a busy machine", "ptp + host-local", add[0], add[1], "≤ 0.35"},
		row{"CNI DEL, on a busy machine", "ptp + host-local", del[0], del[1], "≤ 0.25"})
	return nil
}

// inTurn measures ADDs, ours and the peer's turn by turn, then their DELs. The
// sandboxes are made before and removed after, so that no namespace comes or goes
// meanwhile: the kernel's locks would be measured with it.
func (b *bench) inTurn(ctx context.Context, name string, rounds int) (add, del [2]sample, err error) {
	ours, err := b.ours()
	if err != nil {
		return add, del, err
	}
	plugins := []plugin{ours, b.peer()}
	var pods [2][]*lab.Pod
	for k := range plugins {
		if pods[k], err = b.sandboxes(fmt.Sprintf("%s-%d", name, k), rounds); err != nil {
			return add, del, err
		}
	}
	if err := b.turns(ctx, "ADD", plugins, pods, &add); err != nil {
		return add, del, err
	}
	if err := b.turns(ctx, "DEL", plugins, pods, &del); err != nil {
		return add, del, err
	}
	return add, del, b.removeSandboxes(slices.Concat(pods[0], pods[1]))
}

// turns runs a verb for all pods, the plugins turn by turn.
func (b *bench) turns(ctx context.Context, verb string, plugins []plugin, pods [2][]*lab.Pod, samples *[2]sample) error {
	for i := range pods[0] {
		for k, p := range plugins {
			took, err := b.call(p, verb, pods[k][i])
			if err != nil {
				return err
			}
			samples[k] = append(samples[k], took)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// manyAtOnce measures the time per pod of a burst.
func (b *bench) manyAtOnce(context.Context) error {
	ours, err := b.ours()
	if err != nil {
		return err
	}
	var add, del [2]sample
	for round := range 3 {
		for k, p := range []plugin{ours, b.peer()} {
			pods, err := b.sandboxes(fmt.Sprintf("burst-%d-%d", round, k), b.burst)
			if err != nil {
				return err
			}
			added, err := b.together(p, "ADD", pods)
			if err != nil {
				return err
			}
			deleted, err := b.together(p, "DEL", pods)
			if err != nil {
				return err
			}
			add[k], del[k] = append(add[k], added), append(del[k], deleted)
			if err := b.removeSandboxes(pods); err != nil {
				return err
			}
		}
	}
	b.rows = append(b.rows,
		row{addBurst, "ptp + host-local", add[0], add[1], perMinute()},
		row{"CNI DEL, 32 at once, per pod", "ptp + host-local", del[0], del[1], ""})
	return nil
}

func (b *bench) sandboxes(name string, n int) ([]*lab.Pod, error) {
	var pods []*lab.Pod
	for i := range n {
		pod, err := b.lab.Sandbox(lab.PodSpec{Name: fmt.Sprintf("%s-%d", name, i), Node: "node1"})
		if err != nil {
			return nil, err
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

func (b *bench) removeSandboxes(pods []*lab.Pod) error {
	for _, pod := range pods {
		if err := b.lab.RemoveSandbox(pod); err != nil {
			return err
		}
	}
	return nil
}

// together runs a plugin for all pods, many at a time, and returns the time per
// pod.
func (b *bench) together(p plugin, verb string, pods []*lab.Pod) (time.Duration, error) {
	return together(pods, func(pod *lab.Pod) error {
		_, err := b.call(p, verb, pod)
		return err
	})
}

func together(pods []*lab.Pod, do func(*lab.Pod) error) (time.Duration, error) {
	slots := make(chan struct{}, atOnce)
	errc := make(chan error, len(pods))
	var wg sync.WaitGroup
	began := time.Now()
	for _, pod := range pods {
		slots <- struct{}{}
		wg.Go(func() {
			if err := do(pod); err != nil {
				errc <- err
			}
			<-slots
		})
	}
	wg.Wait()
	each := time.Since(began) / time.Duration(len(pods))
	select {
	case err := <-errc:
		return 0, err
	default:
		return each, nil
	}
}
