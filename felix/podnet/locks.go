package podnet

import "sync"

// locks serialises work by name. A name costs nothing while nobody holds it.
type locks struct {
	mu   *sync.Mutex
	held map[string]*nameLock
}

type nameLock struct {
	sync.Mutex
	users int // holders and waiters
}

func newLocks() locks { return locks{mu: &sync.Mutex{}, held: map[string]*nameLock{}} }

// lock waits for the name and returns what gives it back.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	n, ok := l.held[name]
	if !ok {
		n = &nameLock{}
		l.held[name] = n
	}
	n.users++
	l.mu.Unlock()
	n.Lock()
	return func() {
		n.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(l.held, name)
		}
	}
}
