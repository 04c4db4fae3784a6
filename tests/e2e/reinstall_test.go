package e2e

import "testing"

func reinstall(t *testing.T, e *env) { e.install(t) }
