package client

import (
	"io"
	"strconv"

	"tortie/internal/control/cniwire"
	"tortie/internal/rawjson"
)

// printError prints the error structure of spec 1.1.0, section 5.
func printError(w io.Writer, cniVersion string, e *cniwire.Error) int {
	if cniVersion == "" {
		cniVersion = newestVersion
	}
	out := rawjson.AppendString([]byte("{\n  \"cniVersion\": "), cniVersion)
	out = strconv.AppendUint(append(out, ",\n  \"code\": "...), uint64(e.Code), 10)
	out = rawjson.AppendString(append(out, ",\n  \"msg\": "...), e.Msg)
	if e.Details != "" {
		out = rawjson.AppendString(append(out, ",\n  \"details\": "...), e.Details)
	}
	return write(w, 1, append(out, "\n}\n"...))
}

// printVersions answers VERSION with the cniVersion of the request.
func printVersions(p Process) int {
	raw, failed := readConf(p.Stdin)
	var conf plugConf
	if failed == nil && len(raw) > 0 {
		conf, failed = parseConf("VERSION request", raw)
	}
	if failed != nil {
		return printError(p.Stdout, "", failed)
	}
	if conf.cniVersion == "" {
		conf.cniVersion = newestVersion
	}
	out := rawjson.AppendString([]byte("{\n  \"cniVersion\": "), conf.cniVersion)
	out = append(out, ",\n  \"supportedVersions\": ["...)
	for i, v := range versions() {
		if i > 0 {
			out = append(out, ',')
		}
		out = rawjson.AppendString(append(out, "\n    "...), v)
	}
	return write(p.Stdout, 0, append(out, "\n  ]\n}\n"...))
}

// write writes all of a message and returns the exit code, 1 when it can't be written.
func write(w io.Writer, code int, message []byte) int {
	if _, err := w.Write(message); err != nil {
		return 1
	}
	return code
}

// join puts commas between words.
func join(words []string) string {
	var text []byte
	for i, word := range words {
		if i > 0 {
			text = append(text, ", "...)
		}
		text = append(text, word...)
	}
	return string(text)
}
