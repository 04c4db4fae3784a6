package agentwire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// Ask sends one request to the agent at the other end of a connection, and closes it.
func Ask(conn net.Conn, req Request) (Response, error) {
	var resp Response
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return resp, fmt.Errorf("send the request: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&resp); err != nil {
		return resp, fmt.Errorf("read the answer: %w", err)
	}
	if resp.Err != "" {
		return resp, errors.New(resp.Err)
	}
	return resp, nil
}
