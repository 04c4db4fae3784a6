// Package polltest lets tests wait for what another process, the kernel or a library comes
// to without telling anybody. Where there is an event, or testing/synctest will do, a test
// waits for those.
package polltest

import (
	"testing"
	"time"
)

// every is how often a condition is looked at.
const every = 10 * time.Millisecond

// Until looks at a condition until it is met, and fails the test when that takes longer
// than patience; why says what is still missing.
func Until(t testing.TB, patience time.Duration, what string, met func() (ok bool, why string)) {
	t.Helper()
	look := time.NewTicker(every)
	defer look.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		ok, why := met()
		if ok {
			return
		}
		select {
		case <-late.C:
			t.Fatalf("still waiting for %s: %s", what, why)
		case <-look.C:
		}
	}
}
