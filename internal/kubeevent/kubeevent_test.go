package kubeevent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tortie/internal/kubeevent"
	"tortie/internal/kubeevent/eventtest"
)

// world is a Recorder that runs in a bubble, and the API server it writes to.
type world struct {
	*testing.T
	server   *eventtest.Server
	recorder *kubeevent.Recorder
	log      *strings.Builder
}

func inWorld(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, server: &eventtest.Server{}, log: &strings.Builder{}}
		w.recorder = kubeevent.New(kubeevent.Config{
			API: w.server.API(), About: []kubeevent.Object{kubeevent.Node("worker-1")}, Role: "ClusterRole calico-node",
			Log: slog.New(slog.NewTextHandler(w.log, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.recorder.Run(ctx) }()
		test(w)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time go by.
func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

func warning(reason, message string) kubeevent.Warning {
	return kubeevent.Warning{Reason: reason, Message: message}
}

func TestEventIsFoundByKubectlDescribe(t *testing.T) {
	inWorld(t, func(w *world) {
		w.recorder.Set([]kubeevent.Warning{warning("DatastoreUnavailable", "etcd https://10.0.0.1:2379:\n connection refused")})
		synctest.Wait()
		got := w.server.Events()
		if len(got) != 1 {
			t.Fatalf("%d Events", len(got))
		}
		want := eventtest.Event{
			Name: got[0].Name, Namespace: "default", About: kubeevent.Object{APIVersion: "v1", Kind: "Node", Name: "worker-1", UID: "worker-1"},
			Reason: "DatastoreUnavailable", Message: "etcd https://10.0.0.1:2379: connection refused", Type: "Warning", Component: "felix",
			Count: 1, First: time.Now().UTC().Format(time.RFC3339), Last: time.Now().UTC().Format(time.RFC3339),
		}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatLastsIsOneEventThatIsSaidAgainNowAndThen(t *testing.T) {
	inWorld(t, func(w *world) {
		for range 2000 { // 100 minutes of a Board that tells the same
			w.recorder.Set([]kubeevent.Warning{warning("NoNodeAddress", "none")})
			pass(3 * time.Second)
		}
		got := w.server.Events()
		if len(got) != 1 || got[0].Count < 9 || got[0].Count > 11 || w.server.Requests() > 12 {
			t.Errorf("%d requests, %+v", w.server.Requests(), got)
		}
	})
}

func TestWhatComesAndGoesIsNotSaidEachTime(t *testing.T) {
	inWorld(t, func(w *world) {
		for i := range 200 { // ten minutes, with other words each time
			if i%2 == 0 {
				w.recorder.Set([]kubeevent.Warning{warning("DatastoreUnavailable", fmt.Sprintf("lost, port %d", i))})
			} else {
				w.recorder.Set(nil)
			}
			pass(3 * time.Second)
		}
		got := w.server.Events()
		if len(got) != 1 || got[0].Count > 11 || got[0].Count < 5 || !strings.HasPrefix(got[0].Message, "lost, port 1") {
			t.Errorf("%d requests, %+v", w.server.Requests(), got)
		}
	})
}

func TestWhatComesBackIsSaidAfterTheQuietTime(t *testing.T) {
	inWorld(t, func(w *world) {
		lost := []kubeevent.Warning{warning("DatastoreUnavailable", "lost")}
		w.recorder.Set(lost)
		pass(3 * time.Second)
		w.recorder.Set(nil)
		pass(3 * time.Second)
		w.recorder.Set(lost)
		pass(time.Minute)
		if got := w.server.Events(); len(got) != 1 || got[0].Count != 2 {
			t.Errorf("back after seconds: %+v", got)
		}
		w.recorder.Set(nil)
		pass(5 * time.Minute) // the Recorder is waiting for something to say
		w.recorder.Set(lost)
		synctest.Wait()
		if got := w.server.Events(); got[0].Count != 3 {
			t.Errorf("back after minutes: %+v", got)
		}
		for range 200 { // ten minutes
			w.recorder.Set(nil)
			w.recorder.Set(lost)
			pass(3 * time.Second)
		}
		if got := w.server.Events(); got[0].Count < 12 || got[0].Count > 14 || w.server.Requests() > 16 {
			t.Errorf("always coming and going: %d requests, %+v", w.server.Requests(), got)
		}
	})
}

func TestManyWarningsStayBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		var many []kubeevent.Warning
		for i := range 500 {
			many = append(many, kubeevent.Warning{Reason: "ObjectNotHonoured", Topic: fmt.Sprint(i), Message: "bad"})
		}
		for i := range 5 {
			w.recorder.Set(many[i*100:])
			pass(time.Second)
		}
		if n := len(w.server.Events()); n > 5*64 {
			t.Errorf("%d Events of 500 warnings", n)
		}
		if requests := w.server.Requests(); requests > 5*64 {
			t.Errorf("%d requests", requests)
		}
	})
}

func TestRestartGoesOnWithTheSameEvent(t *testing.T) {
	server := &eventtest.Server{}
	about := []kubeevent.Object{kubeevent.Node("worker-1"), kubeevent.Pod("kube-system", "calico-node-x", "u1")}
	for i := range 4 {
		if err := kubeevent.Say(t.Context(), server.API(), about, warning("FelixFailed", fmt.Sprint("life ", i))); err != nil {
			t.Fatal(err)
		}
	}
	got := server.Events()
	if len(got) != 2 || got[0].Count != 4 || got[1].Count != 4 || got[1].Message != "life 3" || got[1].Namespace != "kube-system" || got[1].About.UID != "u1" {
		t.Errorf("%+v", got)
	}
}

func TestExpiredEventIsMadeAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.recorder.Set([]kubeevent.Warning{warning("NoNodeAddress", "none")})
		synctest.Wait()
		w.server.Expire()
		pass(11 * time.Minute)
		if got := w.server.Events(); len(got) != 1 || got[0].Count != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestUnreachableServerIsTriedMoreAndMoreSeldom(t *testing.T) {
	inWorld(t, func(w *world) {
		w.server.Unreachable(errors.New("connection refused"))
		for range 200 {
			w.recorder.Set([]kubeevent.Warning{warning("DatastoreUnavailable", "away")})
			pass(3 * time.Second)
		}
		if n := w.server.Requests(); n < 5 || n > 20 {
			t.Errorf("%d requests in ten minutes", n)
		}
		if err := w.recorder.Problem(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("problem %v", err)
		}
		if n := strings.Count(w.log.String(), "\n"); n != 1 {
			t.Errorf("%d lines in the log:\n%s", n, w.log)
		}
		w.server.Unreachable(nil)
		pass(time.Minute)
		if got := w.server.Events(); len(got) != 1 || w.recorder.Problem() != nil {
			t.Errorf("%+v, %v", got, w.recorder.Problem())
		}
	})
}

func TestMissingVerbIsNamedAndHoldsUpNothingElse(t *testing.T) {
	inWorld(t, func(w *world) {
		first := true
		w.server.Fail(func(string, string) int {
			if first {
				first = false
				return http.StatusForbidden
			}
			return 0
		})
		w.recorder.Set([]kubeevent.Warning{warning("A", "a"), warning("B", "b")})
		synctest.Wait()
		if got := w.server.Events(); len(got) != 1 || got[0].Reason != "B" {
			t.Errorf("%+v", got)
		}
		const want = "events: RBAC forbids it: give the ClusterRole calico-node the verbs create and patch on events"
		if err := w.recorder.Problem(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("problem %v", err)
		}
		pass(2 * time.Minute)
		if got := w.server.Events(); len(got) != 2 || w.recorder.Problem() != nil {
			t.Errorf("%+v, %v", got, w.recorder.Problem())
		}
	})
}

func TestRefusalThatGoesOnIsLoggedOnceInEachOfItsWords(t *testing.T) {
	server, log := &eventtest.Server{}, &strings.Builder{}
	server.Fail(func(_, path string) int {
		if strings.Contains(path, "/kube-system/") { // the text of a refusal names the namespace
			return http.StatusUnprocessableEntity
		}
		return http.StatusForbidden
	})
	synctest.Test(t, func(t *testing.T) {
		recorder := kubeevent.New(kubeevent.Config{
			API: server.API(), About: []kubeevent.Object{kubeevent.Node("worker-1"), kubeevent.Pod("kube-system", "calico-node-x", "u1")},
			Role: "ClusterRole calico-node", Log: slog.New(slog.NewTextHandler(log, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- recorder.Run(ctx) }()
		recorder.Set([]kubeevent.Warning{warning("A", "a"), warning("B", "b")})
		pass(10 * time.Minute)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines in the log after %d requests:\n%s", n, server.Requests(), log)
	}
}

func TestLongMessagesAreShortened(t *testing.T) {
	server := &eventtest.Server{}
	about := []kubeevent.Object{kubeevent.Node("worker-1")}
	if err := kubeevent.Say(t.Context(), server.API(), about, warning("A", strings.Repeat("ä", 1000))); err != nil {
		t.Fatal(err)
	}
	if m := server.Events()[0].Message; len(m) > 1024 || !strings.HasSuffix(m, "ä …") {
		t.Errorf("%d bytes: …%s", len(m), m[len(m)-20:])
	}
}

func TestAboutIsTheNodeAndThePodWhereItIsKnown(t *testing.T) {
	env := map[string]string{"POD_NAMESPACE": "kube-system", "POD_NAME": "calico-node-x"}
	getenv := func(name string) string { return env[name] }
	if got := kubeevent.About("worker-1", getenv); len(got) != 1 || got[0].Kind != "Node" {
		t.Errorf("without the pod's UID: %+v", got)
	}
	env["POD_UID"] = "u1"
	if got := kubeevent.About("worker-1", getenv); len(got) != 2 || got[1] != kubeevent.Pod("kube-system", "calico-node-x", "u1") {
		t.Errorf("%+v", got)
	}
}

func TestPodFindsItsAPIServer(t *testing.T) {
	server := &eventtest.Server{}
	env, credentials := server.ServePods(t)
	getenv := func(name string) string { return env[name] }
	api, err := kubeevent.InCluster(getenv, credentials, "install-cni", "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := kubeevent.Say(t.Context(), api, []kubeevent.Object{kubeevent.Node("worker-1")}, warning("A", "a")); err != nil {
		t.Fatal(err)
	}
	if got := server.Events(); len(got) != 1 || got[0].Component != "install-cni" {
		t.Errorf("%+v", got)
	}
	if _, err := kubeevent.InCluster(getenv, t.TempDir(), "", ""); err == nil || !strings.HasPrefix(err.Error(), "read the service account's token: ") {
		t.Errorf("without a token: %v", err)
	}
	delete(env, "KUBERNETES_SERVICE_HOST")
	if _, err := kubeevent.InCluster(getenv, credentials, "", ""); !errors.Is(err, kubeevent.ErrNoCluster) {
		t.Errorf("outside of a cluster: %v", err)
	}
}
