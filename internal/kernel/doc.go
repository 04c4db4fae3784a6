// Package kernel is the narrow surface through which everything here speaks to
// the Linux kernel's network stack: links, addresses, neighbours, routes,
// sysctls, network namespaces and the events about them, in net/netip terms.
//
// It is the only package that knows netlink. What it promises:
//
//   - a dump is one consistent picture: an interrupted one is read again, and
//     nothing partial is returned;
//   - deleting what is absent succeeds;
//   - a route that was written reads back equal (==) to its [Route.Normal];
//   - every error is an [*Error] that names operation and object, and belongs to
//     a class ([ErrNotFound] …) that errors.Is sees beside the errno.
package kernel
