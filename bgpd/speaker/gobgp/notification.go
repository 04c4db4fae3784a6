package gobgp

import "fmt"

// notificationWords makes "cease/administrative shutdown (6/2)" of a code and
// subcode; those it does not know stay numbers.
func notificationWords(code, subcode uint8) string {
	words, ok := errorCode(code)
	if !ok {
		return fmt.Sprintf("unknown error (%d/%d)", code, subcode)
	}
	sub, ok := errorSubcode(code, subcode)
	switch {
	case ok:
		words += "/" + sub
	case subcode != 0:
		words += "/unknown subcode"
	}
	return fmt.Sprintf("%s (%d/%d)", words, code, subcode)
}

// errorCode is the name of an error code (RFC 4271 section 4.5, RFC 7313, RFC
// 9687).
func errorCode(code uint8) (string, bool) {
	name, ok := map[uint8]string{
		1: "message header error",
		2: "open message error",
		3: "update message error",
		4: "hold timer expired",
		5: "finite state machine error",
		6: "cease",
		7: "route refresh message error",
		8: "send hold timer expired",
	}[code]
	return name, ok
}

// errorSubcode is the name of an error subcode; 0 has none but in those codes
// that define it.
func errorSubcode(code, subcode uint8) (string, bool) {
	name, ok := map[[2]uint8]string{
		// RFC 4271 section 6.1
		{1, 1}: "connection not synchronized",
		{1, 2}: "bad message length",
		{1, 3}: "bad message type",
		// RFC 4271 section 6.2, RFC 5492, RFC 9234
		{2, 1}:  "unsupported version number",
		{2, 2}:  "bad peer AS",
		{2, 3}:  "bad BGP identifier",
		{2, 4}:  "unsupported optional parameter",
		{2, 5}:  "authentication failure",
		{2, 6}:  "unacceptable hold time",
		{2, 7}:  "unsupported capability",
		{2, 11}: "role mismatch",
		// RFC 4271 section 6.3
		{3, 1}:  "malformed attribute list",
		{3, 2}:  "unrecognized well-known attribute",
		{3, 3}:  "missing well-known attribute",
		{3, 4}:  "attribute flags error",
		{3, 5}:  "attribute length error",
		{3, 6}:  "invalid ORIGIN attribute",
		{3, 7}:  "AS routing loop",
		{3, 8}:  "invalid NEXT_HOP attribute",
		{3, 9}:  "optional attribute error",
		{3, 10}: "invalid network field",
		{3, 11}: "malformed AS_PATH",
		// RFC 6608
		{5, 1}: "unexpected message in OpenSent",
		{5, 2}: "unexpected message in OpenConfirm",
		{5, 3}: "unexpected message in Established",
		// RFC 4486, RFC 8538, RFC 9384
		{6, 1}:  "maximum number of prefixes reached",
		{6, 2}:  "administrative shutdown",
		{6, 3}:  "peer de-configured",
		{6, 4}:  "administrative reset",
		{6, 5}:  "connection rejected",
		{6, 6}:  "other configuration change",
		{6, 7}:  "connection collision resolution",
		{6, 8}:  "out of resources",
		{6, 9}:  "hard reset",
		{6, 10}: "BFD down",
		// RFC 7313
		{7, 1}: "invalid message length",
	}[[2]uint8{code, subcode}]
	return name, ok
}
