package ipam

import (
	"hash/fnv"
	"iter"
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

// candidates yields the blocks of a pool in the order in which a node tries
// them: from an index drawn from a generator seeded with the hash of the node's
// name, upwards, wrapping once. Nodes thereby start apart, and a node comes back
// to the same blocks. Blocks of one address are drawn by time instead, because
// there the node's order would make it walk over all its own.
func candidates(pool netip.Prefix, bits int, node string, now time.Time) iter.Seq[netip.Prefix] {
	seed := now.UnixNano()
	if bits < pool.Addr().BitLen() {
		hash := fnv.New32()
		hash.Write([]byte(node))
		seed = int64(hash.Sum32())
	}
	count := blockCount(pool, bits)
	start := new(big.Int).Rand(rand.New(rand.NewSource(seed)), count)
	return func(yield func(netip.Prefix) bool) {
		one := big.NewInt(1)
		index := new(big.Int).Set(start)
		for {
			if !yield(blockAt(pool, bits, index)) {
				return
			}
			if index.Add(index, one); index.Cmp(count) == 0 {
				index.SetInt64(0)
			}
			if index.Cmp(start) == 0 {
				return
			}
		}
	}
}
