package registration

import "sync"

// last is how the last attempt at something ended.
type last struct {
	mu     sync.Mutex
	failed error
}

// note takes in how an attempt ended, and tells whether that is news: that all is well
// again, or a failure unlike the one before.
func (l *last) note(err error) (recovered, failing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.failed
	l.failed = err
	return err == nil && before != nil, err != nil && (before == nil || before.Error() != err.Error())
}

// Problem is why the last attempt failed; nil when it didn't.
func (l *last) Problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}
