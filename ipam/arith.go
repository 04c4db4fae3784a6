package ipam

import (
	"hash/fnv"
	"math/big"
	"math/rand"
	"net/netip"
	"time"
)

// maxBlockBits bounds a block to 2^12 addresses: /20 and /116 are the largest.
const maxBlockBits = 12

// blockSize counts the addresses of a block.
func blockSize(block netip.Prefix) int {
	return 1 << (block.Addr().BitLen() - block.Bits())
}

// ordinalOf is the place of addr in its block.
func ordinalOf(block netip.Prefix, addr netip.Addr) int {
	diff := new(big.Int).Sub(number(addr), number(block.Addr()))
	return int(diff.Int64())
}

// addrAt is the address at an ordinal of a block. A block is aligned, so that
// the ordinal only fills its host bits: no carry beyond the last two bytes.
func addrAt(block netip.Prefix, ordinal int) netip.Addr {
	raw := block.Addr().AsSlice()
	last := len(raw) - 1
	raw[last] |= byte(ordinal)
	raw[last-1] |= byte(ordinal >> 8)
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// number is addr as an integer.
func number(addr netip.Addr) *big.Int {
	return new(big.Int).SetBytes(addr.AsSlice())
}

// blockCount counts the blocks of a length in a pool.
func blockCount(pool netip.Prefix, bits int) *big.Int {
	return new(big.Int).Lsh(big.NewInt(1), uint(bits-pool.Bits()))
}

// blockAt is the index-th block of a length in a pool.
func blockAt(pool netip.Prefix, bits int, index *big.Int) netip.Prefix {
	offset := new(big.Int).Lsh(index, uint(pool.Addr().BitLen()-bits))
	offset.Add(offset, number(pool.Addr()))
	raw := make([]byte, pool.Addr().BitLen()/8)
	addr, _ := netip.AddrFromSlice(offset.FillBytes(raw))
	return netip.PrefixFrom(addr, bits)
}

// firstChoice is the block of a pool that a node tries first; then it goes upwards,
// wrapping once. It is drawn from a generator seeded with the hash of the node's name:
// nodes thereby start apart, and a node comes back to the same blocks. Blocks of one
// address are drawn by time instead, because there the node's order would make it walk
// over all its own.
func firstChoice(pool netip.Prefix, bits int, node string, now time.Time) netip.Prefix {
	seed := now.UnixNano()
	if bits < pool.Addr().BitLen() {
		hash := fnv.New32()
		hash.Write([]byte(node))
		seed = int64(hash.Sum32())
	}
	return blockAt(pool, bits, new(big.Int).Rand(rand.New(rand.NewSource(seed)), blockCount(pool, bits)))
}

// next is the prefix of the same length after one; ok is false after the last of all.
func next(prefix netip.Prefix) (_ netip.Prefix, ok bool) {
	raw := prefix.Addr().AsSlice()
	for step, at := bitOf(prefix); at >= 0; step, at = 1, at-1 {
		if raw[at] += step; raw[at] >= step {
			addr, _ := netip.AddrFromSlice(raw)
			return netip.PrefixFrom(addr, prefix.Bits()), true
		}
	}
	return netip.Prefix{}, false
}

// sibling is the other half of the prefix one bit shorter, which is parent.
func sibling(prefix netip.Prefix) netip.Prefix {
	raw := prefix.Addr().AsSlice()
	bit, at := bitOf(prefix)
	raw[at] ^= bit
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, prefix.Bits())
}

func parent(prefix netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(prefix.Addr(), prefix.Bits()-1).Masked()
}

// bitOf is the last bit of a prefix, and in which of its bytes it is; -1 for /0.
func bitOf(prefix netip.Prefix) (bit byte, at int) {
	last := prefix.Bits() - 1
	if last < 0 {
		return 0, -1
	}
	return 1 << (7 - last%8), last / 8
}
