// Package cniwire is the conversation between the CNI plugin and felix: one JSON
// request and one JSON response over a Unix stream socket, one connection a call.
// It is encoded and decoded by hand, without encoding/json and fmt: what the plugin
// links is paid for at each pod start.
package cniwire

// Version is the version of this conversation. felix refuses another one by name.
const Version = 1

// DefaultSocket is where felix listens, root only, mode 0600.
const DefaultSocket = "/var/run/calico/felix-cni.sock"

// MaxMessage bounds a request or response, in bytes.
const MaxMessage = 1 << 20

// Request is one CNI call, as the plugin received it. On the wire:
//
//	{"version":1,"plugin":"calico","command":"ADD","containerID":"…","netns":"…","netnsOverride":"…","ifName":"…","args":"…","path":"…","config":{…}}
type Request struct {
	Version     int
	Plugin      string // "calico" or "calico-ipam"
	Command     string // ADD, DEL, CHECK, GC, STATUS
	ContainerID string
	Netns       string
	// NetnsOverride is CNI_NETNS_OVERRIDE: the plugin may run in the container's
	// network namespace.
	NetnsOverride string
	IfName        string
	Args          string
	Path          string
	Config        []byte // JSON
}

// Response is the answer: a CNI result, an error, or neither where the command
// has no output. On the wire:
//
//	{"result":{…}} or {"error":{"code":7,"msg":"…","details":"…"}} or {}
type Response struct {
	Result []byte // JSON
	Error  *Error
}

// Error is a CNI error (spec 1.1.0, section 5). Codes 1–99 are the spec's, 100
// and above ours.
type Error struct {
	Code    uint
	Msg     string
	Details string
}

// Error is the message alone, so that an *Error can be returned as an error.
func (e *Error) Error() string { return e.Msg }

// The CNI error codes in use.
const (
	CodeIncompatibleVersion = 1
	CodeUnsupportedField    = 2
	CodeUnknownContainer    = 3
	CodeInvalidEnvironment  = 4
	CodeIOFailure           = 5
	CodeDecodingFailure     = 6
	CodeInvalidConfig       = 7
	CodeInvalidNetns        = 8
	CodeTryAgainLater       = 11
	CodeNotAvailable        = 50
	CodeLimitedConnectivity = 51
	CodeInternal            = 100
)
