package cniwire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequestSurvivesTheWire(t *testing.T) {
	want := Request{
		Version: Version, Plugin: "calico", Command: "ADD", ContainerID: "c1", Netns: "/run/netns/a",
		IfName: "eth0", Args: "IgnoreUnknown=1", Path: "/opt/cni/bin", Config: json.RawMessage(`{"name":"net1"}`),
	}
	var wire bytes.Buffer
	if err := Write(&wire, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRequest(&wire)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-sent +received):\n%s", diff)
	}
}

func TestConfigWithLineBreaksIsOneMessage(t *testing.T) {
	var wire bytes.Buffer
	if err := Write(&wire, Request{Version: Version, Config: json.RawMessage("{\n \"name\":\n \"net1\"\n}\n")}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(wire.String(), "\n"); n != 1 {
		t.Fatalf("%d line breaks on the wire, want 1", n)
	}
	got, err := ReadRequest(&wire)
	if err != nil || string(got.Config) != `{"name":"net1"}` {
		t.Errorf("config %s, %v", got.Config, err)
	}
}

func TestReadRefusesWhatIsNotAMessage(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want error
	}{
		"nothing":          {"", io.EOF},
		"cut off":          {`{"version":1`, io.ErrUnexpectedEOF},
		"too long":         {strings.Repeat(" ", MaxMessage+5) + "{}\n", ErrTooLong},
		"not JSON":         {"hello\n", nil},
		"wrong field type": {`{"version":"one"}` + "\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadRequest(strings.NewReader(tc.in))
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestWriteRefusesTooLongMessage(t *testing.T) {
	var wire bytes.Buffer
	err := Write(&wire, Response{Result: json.RawMessage(`"` + strings.Repeat("a", MaxMessage) + `"`)})
	if !errors.Is(err, ErrTooLong) || wire.Len() != 0 {
		t.Errorf("error %v with %d bytes written, want ErrTooLong and none", err, wire.Len())
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"plugin":"calico","command":"ADD","config":{"name":"n"}}` + "\n"))
	f.Add([]byte("\n"))
	f.Add([]byte(`{"config":`))
	f.Fuzz(func(t *testing.T, in []byte) {
		req, err := ReadRequest(bytes.NewReader(in))
		if err != nil {
			return
		}
		var wire bytes.Buffer
		if err := Write(&wire, req); err != nil {
			if errors.Is(err, ErrTooLong) {
				return // escaping made it longer than it came
			}
			t.Fatalf("a request that was read can't be written: %v", err)
		}
		again, err := ReadRequest(&wire)
		if err != nil {
			t.Fatal(err)
		}
		if again.ContainerID != req.ContainerID || again.Command != req.Command || !sameJSON(again.Config, req.Config) {
			t.Fatalf("%+v became %+v", req, again)
		}
	})
}

func sameJSON(a, b json.RawMessage) bool {
	if len(a) == 0 || len(b) == 0 { // an absent config is sent as null
		return string(a)+string(b) == "" || string(a)+string(b) == "null"
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && htmlSafe(x) == htmlSafe(y)
}

// htmlSafe escapes as json.Marshal does.
func htmlSafe(b bytes.Buffer) string {
	var out bytes.Buffer
	json.HTMLEscape(&out, b.Bytes())
	return out.String()
}
