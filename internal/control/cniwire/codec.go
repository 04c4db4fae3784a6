package cniwire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrTooLong says that a message exceeds MaxMessage.
var ErrTooLong = fmt.Errorf("message longer than %d bytes", MaxMessage)

// Error is the message alone, so that an *Error can be returned as an error.
func (e *Error) Error() string { return e.Msg }

// Write sends one message: its JSON on one line.
func Write(w io.Writer, message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(line) > MaxMessage {
		return fmt.Errorf("encode message: %w", ErrTooLong)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// ReadRequest reads one request. io.EOF means the peer closed without sending
// one.
func ReadRequest(r io.Reader) (Request, error) {
	var req Request
	err := read(r, &req)
	return req, err
}

// ReadResponse reads one response. io.EOF means the peer closed without
// answering.
func ReadResponse(r io.Reader) (Response, error) {
	var resp Response
	err := read(r, &resp)
	return resp, err
}

func read(r io.Reader, message any) error {
	// One byte more than allowed, so that a message of exactly MaxMessage bytes
	// and its newline still pass.
	limited := &io.LimitedReader{R: r, N: MaxMessage + 2}
	line, err := bufio.NewReader(limited).ReadBytes('\n')
	switch {
	case len(line) > MaxMessage+1:
		return fmt.Errorf("read message: %w", ErrTooLong)
	case errors.Is(err, io.EOF) && len(line) == 0:
		return io.EOF
	case errors.Is(err, io.EOF):
		return fmt.Errorf("read message: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(line, message); err != nil {
		return fmt.Errorf("decode message: %w", err)
	}
	return nil
}
