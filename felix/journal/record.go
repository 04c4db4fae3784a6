package journal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// record is one line of the log: exactly one of Put and Drop is set.
type record struct {
	Put  *Entry `json:"put,omitempty"`
	Drop *ID    `json:"drop,omitempty"`
}

// sumLen is the length of a line's checksum in hex.
const sumLen = 2 * crc32.Size

// encode is the line of a record: CRC-32C in hex, a space, JSON, a newline. JSON
// has no newline of its own, so that a damaged line never hides the next one.
func encode(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode journal record: %w", err)
	}
	return fmt.Appendf(nil, "%08x %s\n", checksum(body), body), nil
}

// decode reads one line without its newline.
func decode(line []byte) (record, error) {
	var r record
	if len(line) < sumLen+2 || line[sumLen] != ' ' {
		return r, errors.New("cut off")
	}
	var sum [crc32.Size]byte
	if _, err := hex.Decode(sum[:], line[:sumLen]); err != nil {
		return r, fmt.Errorf("checksum: %w", err)
	}
	body := line[sumLen+1:]
	want := uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
	if checksum(body) != want {
		return r, errors.New("checksum does not match")
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, err
	}
	if (r.Put == nil) == (r.Drop == nil) || r.Put != nil && !r.Put.valid() {
		return r, errors.New("no entry that can be acted upon")
	}
	return r, nil
}

// replay applies a log to an empty journal. Lines that can't be read are
// returned beside it and never keep the others from being read.
func replay(log []byte) (entries map[ID]Entry, damaged [][]byte) {
	entries = map[ID]Entry{}
	for len(log) > 0 {
		line, rest, whole := bytes.Cut(log, []byte{'\n'})
		log = rest
		r, err := decode(line)
		switch {
		case err != nil || !whole:
			// A last line without its newline was being written when the node died:
			// the caller was never told that it is there.
			damaged = append(damaged, line)
		case r.Put != nil:
			entries[r.Put.ID] = *r.Put
		default:
			delete(entries, *r.Drop)
		}
	}
	return entries, damaged
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
