// Package nexthop keeps the kernel's next-hop groups of one protocol as declared: for
// each key a group, whose number routes refer to and whose next hops change for all of
// them at once.
//
// An object is ours by its protocol. One is deleted only after everything else is as
// declared, and only when no route refers to it: the kernel would take such routes
// along.
package nexthop
