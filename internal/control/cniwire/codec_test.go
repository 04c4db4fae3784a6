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

// TestWireIsThatOfItsVersion: the two sides may be of different releases, and an
// older one must at least read the version, or the error that answers it. What is
// changed here needs another Version, but for fields that the other side may ignore.
func TestWireIsThatOfItsVersion(t *testing.T) {
	for want, message := range map[string]Message{
		`{"version":1,"plugin":"calico","command":"ADD","containerID":"c1","netns":"/n","netnsOverride":"1","ifName":"eth0","args":"A=\"1\"","path":"/p","config":{"name":"n"}}`: Request{
			Version: 1, Plugin: "calico", Command: "ADD", ContainerID: "c1", Netns: "/n", NetnsOverride: "1", IfName: "eth0", Args: `A="1"`, Path: "/p",
			Config: []byte(`{ "name": "n" }`),
		},
		`{"version":1,"plugin":"calico-ipam","command":"GC","config":null}`: Request{Version: 1, Plugin: "calico-ipam", Command: "GC"},
		`{}`:                       Response{},
		`{"result":{"ips":[1,2]}}`: Response{Result: []byte("{\n  \"ips\": [1, 2]\n}")},
		`{"error":{"code":7,"msg":"a \"b\"\nc"}}`:             Response{Error: &Error{Code: 7, Msg: "a \"b\"\nc"}},
		`{"error":{"code":11,"msg":"a","details":"b\u0007"}}`: Response{Error: &Error{Code: 11, Msg: "a", Details: "b\a"}},
	} {
		line, err := Encode(message)
		if err != nil || string(line) != want+"\n" {
			t.Errorf("%+v is %s, %v; want %s", message, line, err, want)
		}
	}
	// As encoding/json of an older release writes it, and with a field of a newer one.
	got, err := ReadResponse(strings.NewReader(`{"since": 3, "error": {"code": 100, "msg": "speaks \u003cversion\u003e", "hint": []}}` + "\n"))
	if err != nil || got.Result != nil || *got.Error != (Error{Code: 100, Msg: "speaks <version>"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// trickle gives one byte at a time.
type trickle struct{ io.Reader }

func (r trickle) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

func TestMessageThatComesInPieces(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	line, err := Encode(Response{Result: []byte(`"` + long + `"`)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadResponse(trickle{io.MultiReader(bytes.NewReader(line), strings.NewReader("what follows is nobody's"))})
	if err != nil || string(got.Result) != `"`+long+`"` {
		t.Errorf("%d bytes, %v", len(got.Result), err)
	}
}

func TestLongestMessagePasses(t *testing.T) {
	empty, err := Encode(Response{Result: []byte(`""`)})
	if err != nil {
		t.Fatal(err)
	}
	result := []byte(`"` + strings.Repeat("x", MaxMessage-len(empty)+1) + `"`)
	line, err := Encode(Response{Result: result})
	if err != nil || len(line) != MaxMessage+1 {
		t.Fatalf("%d bytes, %v", len(line), err)
	}
	if got, err := ReadResponse(bytes.NewReader(line)); err != nil || !bytes.Equal(got.Result, result) {
		t.Errorf("%d bytes, %v", len(got.Result), err)
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
		"wrong text":       {`{"version":1,"plugin":{}}` + "\n", nil},
		"negative version": {`{"version":-1}` + "\n", nil},
		"an array":         {"[]\n", nil},
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

func FuzzReadResponse(f *testing.F) {
	f.Add([]byte(`{"result":{"cniVersion":"1.1.0"}}` + "\n"))
	f.Add([]byte(`{"error":{"code":7,"msg":"m","details":"d"}}` + "\n"))
	f.Add([]byte(`{"error":null}` + "\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		resp, err := ReadResponse(bytes.NewReader(in))
		if err != nil {
			return
		}
		line, err := Encode(resp)
		if err != nil {
			if errors.Is(err, ErrTooLong) {
				return
			}
			t.Fatalf("a response that was read can't be written: %v", err)
		}
		again, err := ReadResponse(bytes.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		if !sameJSON(again.Result, resp.Result) || !cmp.Equal(again.Error, resp.Error) {
			t.Fatalf("%+v became %+v", resp, again)
		}
	})
}
