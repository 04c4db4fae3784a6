// Package nodestatus is the gRPC service by which bgpd tells calicoctl the state
// of its peers and routes. The code is generated from nodestatus.proto by
// `make generate`.
package nodestatus

// DefaultSocket is where bgpd listens, root only, mode 0600.
const DefaultSocket = "/var/run/calico/bgpd.sock"
