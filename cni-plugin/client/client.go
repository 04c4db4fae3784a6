// Package client is the CNI plugin's side of a call: it turns the environment
// and standard input into one request to felix, and felix's answer into what CNI
// expects on standard output.
package client

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"tortie/internal/control/cniwire"
)

// The names under which the binary is installed; argv[0] selects one.
const (
	NameCalico = "calico"
	NameIPAM   = "calico-ipam"
)

// Process is the surroundings of one plugin run.
type Process struct {
	Args    []string
	Getenv  func(string) string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Version string
}

// Main runs one CNI call and returns the exit code. Standard output carries the
// result or the CNI error, never both and nothing else.
func Main(p Process) int {
	name := pluginName(p.Args)
	if len(p.Args) > 1 {
		return flags(p, name)
	}
	if p.Getenv("CNI_COMMAND") == "VERSION" {
		return printVersions(p)
	}
	c := call{process: p, plugin: name}
	if p.Getenv("CNI_COMMAND") != "" { // else skel tells a person about the plugin
		if failed := c.readConf(); failed != nil {
			return printError(p.Stdout, c.conf.CNIVersion, failed)
		}
	}
	// skel looks at the namespace again after the call and may yet fail, so the
	// result is printed only when it has returned.
	failed := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    c.run("ADD"),
		Del:    c.run("DEL"),
		Check:  c.run("CHECK"),
		GC:     c.run("GC"),
		Status: c.run("STATUS"),
	}, version.All, about(name, p.Version))
	if failed != nil {
		return printError(p.Stdout, c.conf.CNIVersion, failed)
	}
	if len(c.result) == 0 {
		return 0
	}
	if _, err := p.Stdout.Write(append(c.result, '\n')); err != nil {
		return 1
	}
	return 0
}

// call is the CNI call while skel runs it.
type call struct {
	process Process
	plugin  string
	conf    plugConf
	result  json.RawMessage
}

func (c *call) run(command string) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		settings, err := settingsFrom(c.process.Getenv, c.conf)
		if err != nil {
			return types.NewError(types.ErrInvalidEnvironmentVariables, err.Error(), "")
		}
		resp, failed := exchange(settings, cniwire.Request{
			Version:     cniwire.Version,
			Plugin:      c.plugin,
			Command:     command,
			ContainerID: args.ContainerID,
			Netns:       args.Netns,
			IfName:      args.IfName,
			Args:        args.Args,
			Path:        args.Path,
			Config:      args.StdinData,
		})
		if failed != nil {
			return failed
		}
		if resp.Error != nil {
			return types.NewError(resp.Error.Code, resp.Error.Msg, resp.Error.Details)
		}
		c.result = resp.Result
		return nil
	}
}

func pluginName(args []string) string {
	if len(args) > 0 && filepath.Base(args[0]) == NameIPAM {
		return NameIPAM
	}
	return NameCalico
}

// about names the plugin to people.
func about(name, version string) string { return fmt.Sprintf("CNI plugin %s %s", name, version) }

const help = `%s
It is run by a container runtime, which passes the call in CNI_* variables and the network
configuration on standard input; felix on the same node carries the call out. It takes no
arguments but --help and --version.
  CALICO_CNI_SOCKET   felix's socket; else the configuration's felix_socket; else
                      %s
  CALICO_CNI_WAIT     how long to wait for that socket (default %s)
`

// flags serves a run by hand: a runtime never passes arguments.
func flags(p Process, name string) int {
	switch p.Args[1] {
	case "-v", "-version", "--version":
		_, _ = fmt.Fprintln(p.Stdout, about(name, p.Version))
		return 0
	case "-h", "-help", "--help":
		_, _ = fmt.Fprintf(p.Stdout, help, about(name, p.Version), cniwire.DefaultSocket, defaultWait)
		return 0
	}
	_, _ = fmt.Fprintf(p.Stderr, "%s: unknown argument %q: see %s --help\n", name, p.Args[1], name)
	return 2
}

// printVersions answers VERSION with the cniVersion of the request.
func printVersions(p Process) int {
	raw, err := io.ReadAll(io.LimitReader(p.Stdin, cniwire.MaxMessage))
	if err != nil {
		return printError(p.Stdout, "", types.NewError(types.ErrIOFailure, "read the VERSION request: "+err.Error(), ""))
	}
	var conf plugConf
	if len(raw) > 0 {
		var failed *types.Error
		if conf, failed = parseConf("VERSION request", raw); failed != nil {
			return printError(p.Stdout, "", failed)
		}
	}
	if conf.CNIVersion == "" {
		conf.CNIVersion = version.Current()
	}
	return printJSON(p.Stdout, 0, struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{conf.CNIVersion, version.All.SupportedVersions()})
}

// printError prints the error structure of spec 1.1.0, section 5.
func printError(w io.Writer, cniVersion string, e *types.Error) int {
	if cniVersion == "" {
		cniVersion = version.Current()
	}
	return printJSON(w, 1, struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{cniVersion, e})
}

func printJSON(w io.Writer, code int, v any) int {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if out.Encode(v) != nil {
		return 1
	}
	return code
}
