package polltest

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a test that notes its failure instead of ending.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	panic(f)
}

func TestUntilWaitsForTheConditionAndNoLongerThanItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, looks := time.Now(), 0
		Until(t, time.Minute, "three looks", func() (bool, string) { looks++; return looks == 3, "" })
		if took := time.Since(start); looks != 3 || took != 2*every {
			t.Errorf("%d looks in %v", looks, took)
		}
		f := &failing{TB: t}
		start = time.Now()
		func() {
			defer func() {
				if recover() != f {
					t.Error("it did not give up")
				}
			}()
			Until(f, time.Minute, "the impossible", func() (bool, string) { return false, "it is not" })
		}()
		if took := time.Since(start); took != time.Minute || f.said != "still waiting for the impossible: it is not" {
			t.Errorf("said %q after %v", f.said, took)
		}
	})
}
