package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/containernetworking/cni/pkg/types"
)

// plugConf is the part of the network configuration that the plugin itself
// needs; felix reads all of it.
type plugConf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Socket     string `json:"felix_socket"`
}

// readConf reads standard input and looks at it before skel does, whose errors
// speak of Go's types. skel reads the process's standard input, so it gets a pipe
// in that place.
func (c *call) readConf() *types.Error {
	raw, err := io.ReadAll(c.process.Stdin)
	if err != nil {
		return types.NewError(types.ErrIOFailure, "read the network configuration from standard input: "+err.Error(), "")
	}
	var failed *types.Error
	if c.conf, failed = parseConf("network configuration", raw); failed != nil {
		return failed
	}
	r, w, err := os.Pipe()
	if err != nil {
		return types.NewError(types.ErrIOFailure, "hand the network configuration on: "+err.Error(), "")
	}
	os.Stdin = r
	go func() {
		_, _ = w.Write(raw) // fails only when skel has refused the call and the process ends
		_ = w.Close()
	}()
	return nil
}

// parseConf reads the plugin's part of a JSON document; what names the document.
func parseConf(what string, raw []byte) (plugConf, *types.Error) {
	var conf plugConf
	err := json.Unmarshal(raw, &conf)
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil:
		return conf, nil
	case len(raw) == 0:
		return conf, types.NewError(types.ErrDecodingFailure, what+": missing; it is expected on standard input", "")
	case errors.As(err, &wrongType):
		want := "an object"
		if wrongType.Type.Kind() == reflect.String {
			want = "a string"
		}
		where := what
		if wrongType.Field != "" {
			where = fmt.Sprintf("%s: key %q", what, wrongType.Field)
		}
		return conf, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("%s: want %s, not %s", where, want, wrongType.Value), "")
	}
	return conf, types.NewError(types.ErrDecodingFailure, what+": not JSON: "+err.Error(), "")
}
