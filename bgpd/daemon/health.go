package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tortie/internal/health"
)

// answerTime is how long the engine may take to answer a probe: it is at work for
// less than a second at a time, and for seconds when the kernel is overloaded.
const answerTime = 5 * time.Second

// probes are about bgpd itself. What its peers do is not its health: a restart would
// not mend them, and a node whose router is away still has its pods.
func (e *engine) probes(ctx context.Context) health.Probes {
	ask := func(about func() error) func() error {
		return func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, answerTime)
			defer cancel()
			if failed := e.do(ctx, func() { err = about() }); failed != nil {
				return fmt.Errorf("bgpd's loop has not answered for %s: %w", answerTime, failed)
			}
			return err
		}
	}
	return health.Probes{Live: ask(func() error { return nil }), Ready: ask(e.ready)}
}

// ready is nil once the speaker and the kernel are as the datastore says.
func (e *engine) ready() error {
	switch {
	case e.plan.Missing != "":
		return errors.New(e.plan.Missing)
	case !e.planned:
		return errors.New("the datastore has not been read yet")
	}
	return errors.Join(e.speakerErr, e.readErr, e.kernelErr)
}
