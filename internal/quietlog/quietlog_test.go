package quietlog

import (
	"log/slog"
	"strings"
	"testing"
)

func TestTheLibrarysLinesAreForDebugging(t *testing.T) {
	var out strings.Builder
	level := &slog.LevelVar{}
	log := New(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))).With("a", 1).WithGroup("g")
	log.Error("quiet")
	level.Set(slog.LevelDebug)
	log.Error("loud", "b", 2)
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "level=DEBUG msg=loud a=1 g.b=2") {
		t.Error(got)
	}
}
