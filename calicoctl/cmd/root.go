// Package cmd is the command line of calicoctl: one file per verb. A command
// touches the world only through Deps, so that tests run it in their own
// process.
package cmd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tortie/internal/api"
	"tortie/internal/control/felixstatus"
	"tortie/internal/control/nodestatus"
	"tortie/internal/datastore"
)

// Deps is everything a command needs from outside. All fields are required.
type Deps struct {
	Registry *api.Registry
	// OpenStore connects to the datastore described by a configuration file, or
	// by the environment. The client may live as long as ctx; the commands close
	// what they opened.
	OpenStore func(ctx context.Context, configPath string, log *slog.Logger) (datastore.Client, error)
	// DialNode connects to the status service of this node's bgpd.
	DialNode func(ctx context.Context, socket string) (nodestatus.NodeStatusClient, io.Closer, error)
	// OpenKube connects to the API server that a kubeconfig names.
	OpenKube func(kubeconfig string) (Kube, error)
	// Connect connects to a Unix socket and leaves again: nil means that somebody
	// listens there. Its errors are those of the kernel.
	Connect func(ctx context.Context, socket string) error
	// FelixStatus is what felix, whose socket that is, has last said of itself; empty
	// where it never ran.
	FelixStatus func(socket string) (felixstatus.Status, error)
	Stdin       io.Reader
	Stdout      io.Writer
	Stderr      io.Writer
	// Terminal: somebody looks at Stdout.
	Terminal bool
	Getenv   func(string) string
	// Now is the clock; its location is the one times are shown in.
	Now func() time.Time
	// Settle is how long an IP pool stays disabled before it is deleted.
	Settle time.Duration
	// OpTimeout bounds each read or write of the datastore.
	OpTimeout time.Duration
	Version   string
	Commit    string
}

// app is one run of the program.
type app struct {
	Deps
	configPath string
	logLevel   string
	context    string
}

const rootLong = `calicoctl manages the resources of a Calico network, shows its addresses, and
shows the state of the BGP daemon of this node.

The datastore is etcd. It is found through the variables ETCD_ENDPOINTS,
ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE, ETCD_USERNAME and ETCD_PASSWORD,
or through ` + datastore.DefaultConfigPath + `.

Exit status: 0 everything asked for was done; 1 something failed, stderr says what;
2 the command line is wrong; 3 the datastore does not answer, or refuses to let
calicoctl in (what was asked for may be tried again).`

// New builds the command tree.
func New(deps Deps) *cobra.Command {
	a := &app{Deps: deps}
	root := &cobra.Command{
		Use:               "calicoctl",
		Short:             "Manage a Calico network",
		Long:              rootLong,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: a.checkGlobalFlags,
		Args:              cobra.ArbitraryArgs,
		RunE:              showHelp,
		Version:           deps.Version,
	}
	root.SuggestionsMinimumDistance = suggestionDistance
	root.SetIn(deps.Stdin)
	root.SetOut(deps.Stdout)
	root.SetErr(deps.Stderr)
	root.SetVersionTemplate("calicoctl {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.configPath, "config", "c", datastore.DefaultConfigPath, "file that says how to reach the datastore, YAML or JSON")
	flags.StringVarP(&a.logLevel, "log-level", "l", "panic", "what to log to stderr: "+strings.Join(logLevelNames(), ", "))
	flags.StringVar(&a.context, "context", "", "kubeconfig context (there is no Kubernetes datastore here: refused)")
	flags.Bool("allow-version-mismatch", true, "accepted for compatibility: versions may always differ")
	root.AddCommand(
		a.createCommand(), a.applyCommand(), a.replaceCommand(), a.deleteCommand(), a.getCommand(),
		a.labelCommand(), a.validateCommand(), a.ipamCommand(), a.nodeCommand(), a.bgpCommand(),
		a.datastoreCommand(), a.versionCommand(),
		a.patchCommand(), a.convertCommand(), a.clusterCommand(),
	)
	root.SetHelpCommand(helpCommand())
	strictCompletion(root)
	return root
}

// helpCommand is cobra's, but one that fails for what doesn't exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			named, rest, err := cmd.Root().Find(args)
			switch {
			case err != nil || named == nil:
				return usage(cmd, "help: unknown command %q", strings.Join(args, " "))
			case len(rest) > 0:
				return showHelp(named, rest)
			}
			return named.Help()
		},
	}
}

// strictCompletion makes cobra's completion command refuse a shell it doesn't know.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, showHelp
		for _, shell := range cmd.Commands() {
			shell.Args = argsThat(cobra.NoArgs, "no arguments")
		}
	}
}

// Run runs one command line, without the program's name, and returns its exit
// status.
func Run(ctx context.Context, deps Deps, args []string) int {
	out := &resultWriter{w: deps.Stdout}
	deps.Stdout = out
	root := New(deps) //nolint:contextcheck // each command gets it from ExecuteContext
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("write the result: %w", out.err)
	}
	return report(deps.Stderr, err)
}

// resultWriter remembers the first failure to write: a script must not take half
// a result for the whole.
type resultWriter struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (r *resultWriter) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if r.err == nil {
		r.err = err
	}
	return n, err
}

// showHelp is what a command that only groups others does: help, or an error
// for a subcommand that doesn't exist.
func showHelp(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		hint := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usage(cmd, "unknown command %q%s", args[0], hint)
	}
	return cmd.Help()
}

// suggestionDistance is how many letters a mistyped command may be off.
const suggestionDistance = 2

// group is a command that only has subcommands.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: showHelp}
	cmd.SuggestionsMinimumDistance = suggestionDistance
	cmd.AddCommand(children...)
	return cmd
}

func (a *app) checkGlobalFlags(cmd *cobra.Command, _ []string) error {
	if err := checkExclusions(cmd); err != nil {
		return err
	}
	if a.context != "" {
		return usage(cmd, "--context: chooses a kubeconfig context, but the datastore is etcd; leave it out")
	}
	if _, ok := logLevels()[a.logLevel]; !ok {
		return usage(cmd, "--log-level %q: want one of %s", a.logLevel, strings.Join(logLevelNames(), ", "))
	}
	return nil
}

func logLevelNames() []string { return []string{"panic", "fatal", "error", "warn", "info", "debug"} }

// logLevels maps upstream's names. What a command fails with is printed anyway,
// so that the two highest leave nothing to log.
func logLevels() map[string]slog.Level {
	const silent = slog.LevelError + 4
	return map[string]slog.Level{
		"panic": silent, "fatal": silent, "error": slog.LevelError,
		"warn": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug,
	}
}

func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: logLevels()[a.logLevel]}))
}

// printf and println write results. A failure shows in the exit status: Run
// looks after it.
func (a *app) printf(format string, args ...any) { _, _ = fmt.Fprintf(a.Stdout, format, args...) }

func (a *app) println(args ...any) { _, _ = fmt.Fprintln(a.Stdout, args...) }

func (a *app) warn(text string) { _, _ = fmt.Fprintf(a.Stderr, "Warning: %s\n", oneLine(plain(text))) }
