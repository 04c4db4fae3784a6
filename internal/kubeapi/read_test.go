package kubeapi_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"tortie/internal/kubeapi"
)

// A 404 of a proxy, or of anything else that is no API server, doesn't say that an
// object is gone.
func TestGetDoesNotTakeAnothersAnswerForAMissingObject(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	client, err := kubeapi.New(&rest.Config{Host: s.URL}, "role")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := client.Get(t.Context(), "pods", "ns1", "web", &corev1.Pod{}); err == nil {
		t.Errorf("found %v, no error", found)
	}
}

// A list of several pages is read whole, each page by itself.
func TestAllReadsEveryPage(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		body := `{"kind":"NodeList","apiVersion":"v1","metadata":{"continue":"x"},"items":[{"metadata":{"name":"a","labels":{"l":"1"}}},{"metadata":{"name":"b"}}]}`
		if req.URL.Query().Get("continue") == "x" {
			body = `{"kind":"NodeList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"c"}}]}`
		}
		_, _ = rw.Write([]byte(body))
	}))
	defer s.Close()
	client, err := kubeapi.New(&rest.Config{Host: s.URL}, "role")
	if err != nil {
		t.Fatal(err)
	}
	names := ""
	err = kubeapi.All(t.Context(), client, "nodes", func() *corev1.NodeList { return new(corev1.NodeList) }, func(page *corev1.NodeList) {
		for _, n := range page.Items {
			names += n.Name + n.Labels["l"] + " "
		}
	})
	if err != nil || names != "a1 b c " {
		t.Errorf("%q, %v", names, err)
	}
}
