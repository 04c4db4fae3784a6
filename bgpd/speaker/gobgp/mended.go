package gobgp

import "github.com/osrg/gobgp/v3/pkg/packet/bgp"

// Mended reports whether the program was built with bgpd/library's copy of GoBGP. The
// library as published gives no message at all for a type that there isn't.
func Mended() bool {
	const noType = 255
	message, _ := bgp.ParseBGPBody(&bgp.BGPHeader{Type: noType, Len: bgp.BGP_HEADER_LENGTH}, nil)
	return message != nil
}
