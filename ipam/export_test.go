package ipam

import "runtime"

// WaitQueued waits until at least n calls wait for the writer.
func WaitQueued(a *Allocator, n int) {
	for {
		a.queue.mu.Lock()
		waiting := len(a.queue.calls)
		a.queue.mu.Unlock()
		if waiting >= n {
			return
		}
		runtime.Gosched()
	}
}
