package client

import (
	"errors"
	"io"
	"strconv"
	"syscall"

	"tortie/internal/control/cniwire"
)

// retryEvery is the pause between two attempts to connect.
const retryEvery = 20 * millisecond

// exchange sends one request and reads its answer. The request is made before felix
// is called, so that felix, woken by the connection, has it at once.
func exchange(s settings, pause func(int64), req cniwire.Request) (cniwire.Response, *cniwire.Error) {
	if req.Command == "STATUS" {
		s.wait = 0 // it asks whether felix is there now
	}
	line, err := cniwire.Encode(req)
	if err != nil {
		return cniwire.Response{}, brokenOff(s, req.Command, err)
	}
	c, err := dial(s, pause)
	if err != nil {
		return cniwire.Response{}, notRunning(s, req.Command, err)
	}
	defer c.close()
	if err := c.send(line); err != nil {
		return cniwire.Response{}, brokenOff(s, req.Command, err)
	}
	resp, err := cniwire.ReadResponse(c)
	if err != nil {
		return cniwire.Response{}, brokenOff(s, req.Command, err)
	}
	return resp, nil
}

// dial connects, waiting up to s.wait for a socket that is absent or refuses.
func dial(s settings, pause func(int64)) (conn, error) {
	for waited := int64(0); ; waited += retryEvery {
		c, err := connect(s.socket)
		if err == nil {
			return c, nil
		}
		if !worthWaiting(err) || waited >= s.wait {
			return conn{}, err
		}
		pause(retryEvery)
	}
}

// worthWaiting reports whether the socket may appear by itself: absent or stale
// while felix restarts, or its backlog full.
func worthWaiting(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

func notRunning(s settings, command string, err error) *cniwire.Error {
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return &cniwire.Error{
			Code:    cniwire.CodeIOFailure,
			Msg:     "no permission to open felix's socket " + s.socket + ": run the CNI plugin as root",
			Details: err.Error(),
		}
	}
	return &cniwire.Error{
		Code: away(command),
		Msg: "felix is not running on this node: " + err.Error() + " (socket " + s.socket +
			"); check the calico-node pod or the felix service and its log",
	}
}

func brokenOff(s settings, command string, err error) *cniwire.Error {
	why := err.Error()
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		why = "it closed the connection without an answer"
	case errors.Is(err, syscall.EAGAIN):
		why = "no answer within " + strconv.Itoa(answerTimeout) + "s"
	case errors.Is(err, cniwire.ErrTooLong):
		return tooLong()
	}
	return &cniwire.Error{
		Code: away(command),
		Msg:  "felix did not finish " + command + ": " + why + " (socket " + s.socket + "); check its log",
	}
}

// away is the code that says felix can't be reached.
func away(command string) uint {
	if command == "STATUS" {
		return cniwire.CodeNotAvailable
	}
	return cniwire.CodeTryAgainLater
}
