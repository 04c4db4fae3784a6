package secrets

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tortie/bgpd/topology"
	"tortie/internal/kubeapi"
	"tortie/internal/kubeapi/apitest"
)

// heard is what a Follower has told.
type heard struct{ secrets sync.Map }

func (h *heard) told(name string, s topology.Secret) { h.secrets.Store(name, s) }

func (h *heard) of(name string) topology.Secret {
	s, _ := h.secrets.Load(name)
	secret, _ := s.(topology.Secret)
	return secret
}

// following runs a test with a Follower in simulated time.
func following(t *testing.T, source Source, test func(f *Follower, h *heard)) {
	ctx, cancel := context.WithCancel(t.Context())
	h := &heard{}
	f := NewFollower(ctx, source, h.told)
	test(f, h)
	cancel()
	f.Wait()
}

func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		following(t, Files{Dir: dir}, func(f *Follower, h *heard) {
			f.Want([]string{"bgp"})
			pass(0)
			if p := h.of("bgp").Problem; !strings.Contains(p, "there is no folder "+dir+"/bgp: make it") {
				t.Errorf("problem %q", p)
			}
			write(t, filepath.Join(dir, "bgp", "tor"), "one")
			pass(look)
			if s := h.of("bgp"); s.Keys["tor"] != "one" || s.Problem != "" {
				t.Errorf("%+v", s)
			}
			write(t, filepath.Join(dir, "bgp", "tor"), "two")
			write(t, filepath.Join(dir, "bgp", "..data", "tor"), "not a key")
			pass(look)
			if s := h.of("bgp"); s.Keys["tor"] != "two" || len(s.Keys) != 1 || s.Problem != "" {
				t.Errorf("%+v", s)
			}
			if err := os.RemoveAll(filepath.Join(dir, "bgp")); err != nil {
				t.Fatal(err)
			}
			pass(look)
			if s := h.of("bgp"); s.Problem == "" {
				t.Errorf("%+v", s)
			}
		})
	})
}

// TestSecretNamesDoNotLeaveTheFolder: they come from the datastore.
func TestSecretNamesDoNotLeaveTheFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "passwords", "own", "k"), "x")
	write(t, filepath.Join(dir, "key"), "private")
	for _, name := range []string{"..", ".", "", "/etc", "own/../..", "../passwords/own", "a/b"} {
		s := Files{Dir: filepath.Join(dir, "passwords")}.read(name)
		if want := fmt.Sprintf("%q is not the name of a secret", name); s.Problem != want || len(s.Keys) > 0 {
			t.Errorf("%q: %+v", name, s)
		}
	}
}

func TestWhatIsNoPasswordFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "big", "k"), strings.Repeat("x", maxFile+1))
	write(t, filepath.Join(dir, "folder", "k", "x"), "")
	for name, want := range map[string]string{"big": "which is no password", "folder": "is not a file"} {
		if s := (Files{Dir: dir}).read(name); !strings.Contains(s.Problem, want) {
			t.Errorf("%s: %+v, want %q", name, s, want)
		}
	}
}

func TestNobodySaysWherePasswordsAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		following(t, Nowhere{}, func(f *Follower, h *heard) {
			f.Want([]string{"bgp"})
			pass(0)
			if p := h.of("bgp").Problem; !strings.Contains(p, "set BGPD_PASSWORD_DIR to a folder with a file bgp/<key>") {
				t.Errorf("problem %q", p)
			}
		})
	})
}

func secret(namespace, name, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{"tor": []byte(value)}}
}

// cluster runs a test against an API server.
func cluster(t *testing.T, test func(api *apitest.Server, f *Follower, h *heard)) {
	synctest.Test(t, func(t *testing.T) {
		api := apitest.New(true)
		var clients []*kubeapi.Client
		source := Kubernetes{Namespace: "kube-system", Connect: func(role string) (*kubeapi.Client, error) {
			c, err := kubeapi.New(api.Config(), role)
			clients = append(clients, c)
			return c, err
		}}
		following(t, source, func(f *Follower, h *heard) { test(api, f, h) })
		api.Close()
		for _, c := range clients {
			client, _ := c.HTTP()
			client.CloseIdleConnections()
		}
	})
}

func TestSecretsOfKubernetesAreFollowed(t *testing.T) {
	cluster(t, func(api *apitest.Server, f *Follower, h *heard) {
		api.Put(secret("default", "bgp", "of another namespace"))
		api.Put(secret("kube-system", "other", "not asked for"))
		f.Want([]string{"bgp"})
		pass(0)
		if p := h.of("bgp").Problem; p != "there is no Secret bgp in namespace kube-system: create it" {
			t.Errorf("problem %q", p)
		}
		api.Put(secret("kube-system", "bgp", "one"))
		pass(0)
		if s := h.of("bgp"); s.Keys["tor"] != "one" || s.Problem != "" {
			t.Errorf("%+v", s)
		}
		api.Put(secret("kube-system", "bgp", "two"))
		pass(0)
		if s := h.of("bgp"); s.Keys["tor"] != "two" {
			t.Errorf("%+v", s)
		}
		for _, r := range api.Requests() {
			if !strings.HasSuffix(r, "secrets metadata.name=bgp") {
				t.Errorf("asked for %q: RBAC by resourceNames allows what is asked by name alone", r)
			}
		}
		api.Delete(secret("kube-system", "bgp", ""))
		pass(0)
		if p := h.of("bgp").Problem; p != "there is no Secret bgp in namespace kube-system: create it" {
			t.Errorf("problem %q", p)
		}
		f.Want(nil)
		h.secrets.Clear()
		api.Put(secret("kube-system", "bgp", "three"))
		pass(time.Minute)
		if s := h.of("bgp"); s.Keys != nil {
			t.Errorf("told of %v, which nobody wants", s)
		}
	})
}

// TestSecretThatMayNotBeReadIsNamedInTime: a plan waits for the answer.
func TestSecretThatMayNotBeReadIsNamedInTime(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		want   []string
	}{
		"forbidden": {http.StatusForbidden, []string{
			"Secret bgp in namespace kube-system can't be read", "RBAC forbids it",
			"Role calico-node-bgp in namespace kube-system, resourceNames bgp,", "list and watch on secrets",
		}},
		"no answer": {http.StatusInternalServerError, []string{"Secret bgp in namespace kube-system can't be read"}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster(t, func(api *apitest.Server, f *Follower, h *heard) {
				api.Put(secret("kube-system", "bgp", "one"))
				api.Deny(func(string, string) int { return tt.status })
				f.Want([]string{"bgp"})
				pass(answerWithin)
				for _, want := range tt.want {
					if p := h.of("bgp").Problem; !strings.Contains(p, want) {
						t.Errorf("problem %q, want %q", p, want)
					}
				}
				api.Deny(func(string, string) int { return 0 })
				pass(time.Minute)
				if s := h.of("bgp"); s.Keys["tor"] != "one" || s.Problem != "" {
					t.Errorf("%+v", s)
				}
				api.Deny(func(string, string) int { return tt.status })
				pass(time.Minute)
				if s := h.of("bgp"); s.Keys["tor"] != "one" || s.Problem != "" {
					t.Errorf("what was read is forgotten: %+v", s)
				}
			})
		})
	}
}
