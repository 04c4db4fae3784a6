package cmd

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"tortie/internal/datastore"
)

// The exit statuses; the root command's help explains them.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitUnavailable
)

// usageError is a command line that can't be carried out as it stands.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...) + "; see " + cmd.CommandPath() + " --help"}
}

// flagError is a flag that doesn't exist, or whose value can't be read. What the
// function that tried to read it said is Go's own affair: help says what a flag
// takes.
func flagError(cmd *cobra.Command, err error) error {
	text := err.Error()
	if cause := errors.Unwrap(err); cause != nil {
		text = strings.TrimSuffix(text, ": "+cause.Error())
	}
	return usage(cmd, "%s", text)
}

// argsThat wraps a check of positional arguments into a usage error.
func argsThat(check cobra.PositionalArgs, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, "want %s", want)
		}
		return nil
	}
}

// failures are independent errors, each of which gets its own line.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }

// flatten turns joined errors into a flat list. A list of peers is an error that
// prints as its members, one a line; any other error is one statement, whatever
// it wraps.
func flatten(err error) failures {
	if many, ok := err.(failures); ok { //nolint:errorlint // the error itself, not one it wraps
		return many
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return failures{err}
	}
	members := joined.Unwrap()
	if list := errors.Join(members...); list == nil || list.Error() != err.Error() {
		return failures{err}
	}
	var flat failures
	for _, e := range members {
		flat = append(flat, flatten(e)...)
	}
	return flat
}

// report prints an error, one line for each thing that failed, and returns the
// exit status.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	for _, e := range flatten(err) {
		_, _ = fmt.Fprintln(stderr, oneLine(plain(e.Error())+advice(e)))
	}
	if _, bad := errors.AsType[*usageError](err); bad {
		return exitUsage
	}
	switch {
	case errors.Is(err, datastore.ErrUnavailable) || errors.Is(err, datastore.ErrUnauthorized):
		return exitUnavailable
	}
	return exitFailure
}

// advice says what to look at when the datastore is the problem.
func advice(err error) string {
	text := err.Error()
	switch {
	case errors.Is(err, datastore.ErrUnauthorized):
		return "; check ETCD_USERNAME and ETCD_PASSWORD, and what etcd lets this user do"
	case !errors.Is(err, datastore.ErrUnavailable) || strings.Contains(text, "ETCD_"):
		return ""
	case strings.Contains(text, "certificate") || strings.Contains(text, "tls:"):
		return "; check ETCD_CA_CERT_FILE, ETCD_CERT_FILE and ETCD_KEY_FILE"
	}
	return "; check that etcd runs and that ETCD_ENDPOINTS or " + datastore.DefaultConfigPath + " names it"
}

// plain puts the words of Go's libraries for the end of a context into an
// operator's.
func plain(text string) string {
	return strings.NewReplacer(
		"context deadline exceeded", "no answer in time",
		"context canceled", "interrupted",
	).Replace(text)
}

// oneLine keeps a message on one line, whatever a library, or somebody who wrote into
// the datastore, put into it: nothing in it commands the terminal.
func oneLine(text string) string {
	line := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == '\t' }), " ")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, line)
}
