// Package routetable makes the routes that carry one protocol in one kernel
// routing table what they are desired to be.
//
// The kernel's own record of the protocol tells which routes are ours, so a
// restarted agent needs no memory: what is ours and right stays untouched, what
// is ours and not desired goes, what carries another protocol is never changed.
package routetable
