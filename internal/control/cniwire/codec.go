package cniwire

import (
	"errors"
	"io"

	"tortie/internal/rawjson"
)

// ErrTooLong says that a message exceeds MaxMessage.
var ErrTooLong = errors.New("message longer than 1 MiB")

// failure is an error with the step in which it happened.
type failure struct {
	step string
	err  error
}

func (f *failure) Error() string { return f.step + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Message is a Request or a Response.
type Message interface {
	appendJSON(dst []byte) ([]byte, error)
}

// Encode makes one message: its JSON on one line.
func Encode(m Message) ([]byte, error) {
	line, err := m.appendJSON(make([]byte, 0, 2048))
	if err != nil {
		return nil, &failure{"encode message", err}
	}
	if len(line) > MaxMessage {
		return nil, &failure{"encode message", ErrTooLong}
	}
	return append(line, '\n'), nil
}

// Write sends one message.
func Write(w io.Writer, m Message) error {
	line, err := Encode(m)
	if err != nil {
		return err
	}
	if _, err := w.Write(line); err != nil {
		return &failure{"send message", err}
	}
	return nil
}

// ReadRequest reads one request. io.EOF means the peer closed without sending
// one.
func ReadRequest(r io.Reader) (Request, error) {
	var req Request
	members, err := read(r)
	if err == nil {
		err = req.decode(members)
	}
	return req, err
}

// ReadResponse reads one response. io.EOF means the peer closed without
// answering.
func ReadResponse(r io.Reader) (Response, error) {
	var resp Response
	members, err := read(r)
	if err == nil {
		err = resp.decode(members)
	}
	return resp, err
}

// read reads the object of one message.
func read(r io.Reader) ([]rawjson.Member, error) {
	line, err := readLine(r)
	if errors.Is(err, io.EOF) {
		return nil, err
	}
	if err != nil {
		return nil, &failure{"read message", err}
	}
	object, err := rawjson.Parse(line)
	if err != nil {
		return nil, &failure{"decode message", err}
	}
	if err := want(object, rawjson.Object, "the message"); err != nil {
		return nil, err
	}
	return object.Members(), nil
}

// readLine reads up to the line break. What follows it belongs to no message:
// there is one on a connection.
func readLine(r io.Reader) ([]byte, error) {
	line := make([]byte, 0, 2048)
	for {
		n, err := r.Read(line[len(line):cap(line)])
		end := indexByte(line[len(line):len(line)+n], '\n')
		if end >= 0 {
			n, err = end, nil
		}
		line = line[:len(line)+n]
		switch {
		case len(line) > MaxMessage:
			return nil, ErrTooLong
		case end >= 0:
			return line, nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		if len(line) == cap(line) {
			line = append(line, 0)[:len(line)]
		}
	}
}

// indexByte is bytes.IndexByte; bytes links package unicode, which takes its time to
// start.
func indexByte(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return -1
}
