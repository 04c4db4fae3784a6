// Package client is the CNI plugin's side of a call: it turns the environment
// and standard input into one request to felix, and felix's answer into what CNI
// expects on standard output. It links little, for most of what a call costs here
// is the start of the process: neither skel nor net nor encoding/json, and none of
// fmt, os, strings, time, whose own start can be measured. A test holds the list.
package client

import (
	"io"

	"tortie/internal/control/cniwire"
)

// The names under which the binary is installed; the one it is run by selects.
const (
	NameCalico   = "calico"
	NameIPAM     = "calico-ipam"
	NameLoopback = "loopback"
)

// Process is the surroundings of one plugin run.
type Process struct {
	Program string                   // the name of the file that is run
	Args    func() ([]string, error) // what follows it on the command line
	Getenv  func(string) string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Pause   func(nanoseconds int64) // between two attempts to reach felix
	Version string
}

// Main runs one CNI call and returns the exit code. Standard output carries the
// result or the CNI error, never both and nothing else.
func Main(p Process) int {
	switch p.Getenv("CNI_COMMAND") {
	case "":
		return byHand(p)
	case "VERSION":
		return printVersions(p)
	}
	c := call{process: p}
	if failed := c.run(); failed != nil {
		return printError(p.Stdout, c.conf.cniVersion, failed)
	}
	if len(c.result) == 0 {
		return 0
	}
	return write(p.Stdout, 0, append(c.result, '\n'))
}

// call is one CNI call to felix.
type call struct {
	process Process
	conf    plugConf
	result  []byte
}

// run checks what can be checked without felix, and then has felix carry out the
// call.
func (c *call) run() *cniwire.Error {
	raw, failed := readConf(c.process.Stdin)
	if failed != nil {
		return failed
	}
	if c.conf, failed = parseConf("network configuration", raw); failed != nil {
		return failed
	}
	req := c.request(raw)
	if failed := checkEnvironment(req); failed != nil {
		return failed
	}
	if failed := c.conf.check(req.Command); failed != nil {
		return failed
	}
	if req.Plugin == NameLoopback {
		return c.loopback(req)
	}
	s, failed := settingsFrom(c.process.Getenv, c.conf)
	if failed != nil {
		return failed
	}
	resp, failed := exchange(s, c.process.Pause, req)
	if failed != nil {
		return failed
	}
	c.result = resp.Result
	return resp.Error
}

// request is the call as the runtime passes it.
func (c *call) request(conf []byte) cniwire.Request {
	getenv := c.process.Getenv
	return cniwire.Request{
		Version:       cniwire.Version,
		Plugin:        pluginName(c.process.Program),
		Command:       getenv("CNI_COMMAND"),
		ContainerID:   getenv("CNI_CONTAINERID"),
		Netns:         getenv("CNI_NETNS"),
		NetnsOverride: getenv("CNI_NETNS_OVERRIDE"),
		IfName:        getenv("CNI_IFNAME"),
		Args:          getenv("CNI_ARGS"),
		Path:          getenv("CNI_PATH"),
		Config:        conf,
	}
}

func pluginName(program string) string {
	if program == NameIPAM || program == NameLoopback {
		return program
	}
	return NameCalico
}
