// Package fib brings the best paths of the Loc-RIB into the kernel: filtered,
// with next hops resolved over the node's own routes, under route protocol 81,
// through internal/routetable.
//
// Routes of an earlier run are held until every peer of their family has sent
// End-of-RIB, or the restart time is over; only then what nobody announced again
// is swept (RFC 4724 section 4.1).
package fib
