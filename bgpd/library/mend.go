package main

import (
	"fmt"
	"strings"
)

// faulty is the file with the faults.
const faulty = "pkg/packet/bgp/bgp.go"

// change is one replacement of text that occurs once.
type change struct{ old, new string }

// changes mend what parseBody does with two messages:
//
//   - of a type that there isn't it returns no message at all, which its caller looks into
//     for the type (RFC 4271 section 6.1 wants a NOTIFICATION);
//   - some attributes that end early are read beyond their end, in whatever family: that
//     becomes what other malformed attributes are, the end of the session (RFC 7606
//     section 7.11).
func changes() []change {
	return []change{
		{
			old: `func parseBody(h *BGPHeader, data []byte, options ...*MarshallingOption) (*BGPMessage, error) {
`,
			new: `func parseBody(h *BGPHeader, data []byte, options ...*MarshallingOption) (parsed *BGPMessage, failed error) {
	defer func() {
		if r := recover(); r != nil {
			parsed = &BGPMessage{Header: *h}
			failed = NewMessageErrorWithErrorHandling(BGP_ERROR_UPDATE_MESSAGE_ERROR, BGP_ERROR_SUB_MALFORMED_ATTRIBUTE_LIST,
				nil, ERROR_HANDLING_SESSION_RESET, nil, fmt.Sprintf("an attribute ends early: %v", r))
		}
	}()
`,
		},
		{
			old: `		return nil, NewMessageError(BGP_ERROR_MESSAGE_HEADER_ERROR, BGP_ERROR_SUB_BAD_MESSAGE_TYPE, nil, "unknown message type")
	}
	err := msg.Body`,
			new: `		return msg, NewMessageError(BGP_ERROR_MESSAGE_HEADER_ERROR, BGP_ERROR_SUB_BAD_MESSAGE_TYPE, nil, "unknown message type")
	}
	err := msg.Body`,
		},
	}
}

// mend changes the text of the faulty file. Another version of the library may have no
// need of it, or another one: then that is to be looked at.
func mend(text string) (string, error) {
	for _, c := range changes() {
		if n := strings.Count(text, c.old); n != 1 {
			return "", fmt.Errorf("the text to be mended is there %d times, not once: see whether this version of the library still has the faults that bgpd/library names", n)
		}
		text = strings.Replace(text, c.old, c.new, 1)
	}
	return text, nil
}
