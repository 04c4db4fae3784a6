// Package cniwire is the conversation between the CNI plugin and felix: one JSON
// request and one JSON response over a Unix stream socket, one connection a call.
// It imports nothing but the standard library, because every byte linked into the
// plugin is paid for at each pod start.
package cniwire

import "encoding/json"

// Version is the version of this conversation. felix refuses another one by name.
const Version = 1

// DefaultSocket is where felix listens, root only, mode 0600.
const DefaultSocket = "/var/run/calico/felix-cni.sock"

// MaxMessage bounds a request or response, in bytes.
const MaxMessage = 1 << 20

// Request is one CNI call, as the plugin received it.
type Request struct {
	Version     int             `json:"version"`
	Plugin      string          `json:"plugin"`  // "calico" or "calico-ipam"
	Command     string          `json:"command"` // ADD, DEL, CHECK, GC, STATUS
	ContainerID string          `json:"containerID,omitempty"`
	Netns       string          `json:"netns,omitempty"`
	IfName      string          `json:"ifName,omitempty"`
	Args        string          `json:"args,omitempty"`
	Path        string          `json:"path,omitempty"`
	Config      json.RawMessage `json:"config"`
}

// Response is the answer: a CNI result, an error, or neither where the command
// has no output.
type Response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Error is a CNI error (spec 1.1.0, section 5). Codes 1–99 are the spec's, 100
// and above ours.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// The CNI error codes in use.
const (
	CodeIncompatibleVersion = 1
	CodeUnsupportedField    = 2
	CodeUnknownContainer    = 3
	CodeInvalidEnvironment  = 4
	CodeIOFailure           = 5
	CodeDecodingFailure     = 6
	CodeInvalidConfig       = 7
	CodeTryAgainLater       = 11
	CodeNotAvailable        = 50
	CodeLimitedConnectivity = 51
	CodeInternal            = 100
)
