// Package quietlog demotes what a library logs. The lines of client-go are for
// debugging: what an operator should know of a watch is said by whoever uses it, once
// and with what to do.
package quietlog

import (
	"context"
	"log/slog"
)

// New is a logger whose every line is one for debugging.
func New(log *slog.Logger) *slog.Logger { return slog.New(demoted{log.Handler()}) }

// demoted makes every line one for debugging.
type demoted struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
