package manifestfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
)

// rawDocument is the text of one document.
type rawDocument struct {
	source Source
	text   []byte
	isJSON bool
	err    error // why the text can't be split further; set on the last document only
}

// split cuts a file into its documents. Documents without content (only blank
// lines and comments) are not counted: a file that starts with "---" has its
// first document after that line.
func split(name string, content []byte) []*rawDocument {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	var raws []*rawDocument
	if trimmed := bytes.TrimLeft(content, " \t\r\n"); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		raws = splitJSON(content)
		// What looks like JSON may be YAML in flow style.
		if last := raws[len(raws)-1]; last.err != nil && strings.ToLower(filepath.Ext(name)) != ".json" {
			if yaml := splitYAML(content); parses(yaml) {
				raws = yaml
			}
		}
	} else {
		raws = splitYAML(content)
	}
	for i, raw := range raws {
		raw.source.File, raw.source.Index, raw.source.Of = name, i+1, len(raws)
	}
	return raws
}

func parses(raws []*rawDocument) bool {
	for _, raw := range raws {
		if _, err := raw.json(); err != nil {
			return false
		}
	}
	return true
}

// splitYAML cuts at document markers. A line that starts with "---" or "..." at
// column 0 is always a marker: YAML allows neither inside a scalar.
func splitYAML(content []byte) []*rawDocument {
	var (
		raws  []*rawDocument
		text  []byte
		start = 1
	)
	flush := func() {
		if raw := trimmedYAML(text, start); raw != nil {
			raws = append(raws, raw)
		}
		text = nil
	}
	lineNo := 0
	for line := range bytes.Lines(content) {
		lineNo++
		switch {
		case isMarker(line, "..."):
			flush()
			start = lineNo + 1
		case isMarker(line, "---"):
			flush()
			start = lineNo
			// Content may follow the marker on its line.
			text = append(append(text, "   "...), line[3:]...)
		default:
			text = append(text, line...)
		}
	}
	flush()
	return raws
}

func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// trimmedYAML drops the blank lines and comments before the first content, so
// that the document's line is that of its content. nil when there is none.
func trimmedYAML(text []byte, start int) *rawDocument {
	offset := 0
	for line := range bytes.Lines(text) {
		trimmed := bytes.TrimSpace(line)
		if len(trimmed) > 0 && trimmed[0] != '#' && trimmed[0] != '%' {
			return &rawDocument{source: Source{Line: start}, text: text[offset:]}
		}
		offset += len(line)
		start++
	}
	return nil
}

// splitJSON cuts a stream of JSON values. A syntax error ends it: its document
// carries the error with the line where it is.
func splitJSON(content []byte) []*rawDocument {
	var raws []*rawDocument
	dec := json.NewDecoder(bytes.NewReader(content))
	for {
		var value json.RawMessage
		begin := skipSpace(content, int(dec.InputOffset()))
		err := dec.Decode(&value)
		if errors.Is(err, io.EOF) {
			return raws
		}
		raw := &rawDocument{source: Source{Line: lineAt(content, begin)}, text: value, isJSON: true}
		raws = append(raws, raw)
		if err == nil {
			continue
		}
		at := begin
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = int(syntax.Offset) - 1
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			at = len(content) - 1
		}
		raw.source.Line, raw.err = lineAt(content, at), err
		return raws
	}
}

func skipSpace(content []byte, from int) int {
	rest := content[min(from, len(content)):]
	return len(content) - len(bytes.TrimLeft(rest, " \t\r\n"))
}

func lineAt(content []byte, offset int) int {
	return 1 + bytes.Count(content[:max(0, min(offset, len(content)))], []byte("\n"))
}
