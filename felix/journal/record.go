package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"time"

	"tortie/internal/rawjson"
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
//
// It is made by hand, as every pod waits for two of them; a test holds it against
// what decode reads.
func encode(r record) []byte {
	line := make([]byte, sumLen+1, 512)
	line = append(line, '{')
	if r.Put != nil {
		line = r.Put.appendJSON(append(line, `"put":`...))
	}
	if r.Drop != nil {
		if r.Put != nil {
			line = append(line, ',')
		}
		line = append(r.Drop.appendJSON(append(line, `"drop":{`...)), '}')
	}
	line = append(line, '}')
	var sum [crc32.Size]byte
	binary.BigEndian.PutUint32(sum[:], checksum(line[sumLen+1:]))
	hex.Encode(line, sum[:])
	line[sumLen] = ' '
	return append(line, '\n')
}

func (id ID) appendJSON(dst []byte) []byte {
	dst = rawjson.AppendString(append(dst, `"network":`...), id.Network)
	dst = rawjson.AppendString(append(dst, `,"containerID":`...), id.ContainerID)
	return rawjson.AppendString(append(dst, `,"ifName":`...), id.IfName)
}

func (e *Entry) appendJSON(dst []byte) []byte {
	dst = e.ID.appendJSON(append(dst, '{'))
	for _, text := range []struct{ key, value string }{
		{`,"state":`, string(e.State)},
		{`,"plugin":`, e.Plugin},
		{`,"namespace":`, e.Namespace},
		{`,"endpoint":`, e.Endpoint},
		{`,"hostIf":`, e.HostIf},
		{`,"netns":`, e.Netns},
		{`,"mac":`, e.MAC},
	} {
		if text.value != "" {
			dst = rawjson.AppendString(append(dst, text.key...), text.value)
		}
	}
	if e.MTU != 0 {
		dst = strconv.AppendInt(append(dst, `,"mtu":`...), int64(e.MTU), 10)
	}
	dst = appendList(dst, `,"addrs":`, e.Addrs, appendAddr)
	dst = appendList(dst, `,"blockBits":`, e.BlockBits, func(dst []byte, n int) []byte {
		return strconv.AppendInt(dst, int64(n), 10)
	})
	dst = appendList(dst, `,"hostPorts":`, e.HostPorts, func(dst []byte, p HostPort) []byte {
		dst = rawjson.AppendString(append(dst, `{"protocol":`...), p.Protocol)
		if p.HostIP.IsValid() {
			dst = append(p.HostIP.AppendTo(append(dst, `,"hostIP":"`...)), '"')
		}
		dst = strconv.AppendUint(append(dst, `,"hostPort":`...), uint64(p.HostPort), 10)
		return append(strconv.AppendUint(append(dst, `,"port":`...), uint64(p.Port), 10), '}')
	})
	dst = appendList(dst, `,"sources":`, e.Sources, func(dst []byte, p netip.Prefix) []byte {
		return append(p.AppendTo(append(dst, '"')), '"')
	})
	dst = appendList(dst, `,"floatingIPs":`, e.Floating, appendAddr)
	if e.Given {
		dst = append(dst, `,"given":true`...)
	}
	if e.IPAM != nil {
		plugin, _ := json.Marshal(e.IPAM) // of texts alone: it can't fail
		dst = append(append(dst, `,"ipam":`...), plugin...)
	}
	if e.Detached {
		dst = append(dst, `,"detached":true`...)
	}
	dst = e.Since.AppendFormat(append(dst, `,"since":"`...), time.RFC3339Nano)
	return append(dst, `"}`...)
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(dst, `""`...)
	}
	return append(a.AppendTo(append(dst, '"')), '"')
}

// appendList appends a list under its key, unless it is empty.
func appendList[T any](dst []byte, key string, list []T, appendOne func([]byte, T) []byte) []byte {
	if len(list) == 0 {
		return dst
	}
	dst = append(dst, key...)
	sep := byte('[')
	for _, v := range list {
		dst = appendOne(append(dst, sep), v)
		sep = ','
	}
	return append(dst, ']')
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
