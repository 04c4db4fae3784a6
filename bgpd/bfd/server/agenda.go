package server

import "time"

// agenda is the sessions, the one first that has something to do first. It
// implements heap.Interface; sessions that have nothing to do are last.
type agenda []*session

// next is when the first of them has something to do; zero for never.
func (a agenda) next() time.Time {
	if len(a) == 0 {
		return time.Time{}
	}
	return a[0].at
}

func (a agenda) Len() int { return len(a) }

func (a agenda) Less(i, j int) bool {
	return !a[i].at.IsZero() && (a[j].at.IsZero() || a[i].at.Before(a[j].at))
}

func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push implements heap.Interface.
func (a *agenda) Push(x any) {
	r, ok := x.(*session)
	if !ok {
		return // nothing else is ever pushed
	}
	r.index = len(*a)
	*a = append(*a, r)
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	r := (*a)[last]
	*a = (*a)[:last]
	return r
}
