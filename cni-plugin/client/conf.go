package client

import (
	"errors"
	"io"
	"strconv"

	"tortie/internal/control/cniwire"
	"tortie/internal/rawjson"
)

// plugConf is the part of the network configuration that the plugin itself
// needs; felix reads all of it.
type plugConf struct {
	cniVersion string
	name       string
	socket     string // felix_socket
	prevResult []byte // what came before in the chain; for loopback alone
}

// readConf reads standard input, up to what felix takes in one message.
func readConf(stdin io.Reader) ([]byte, *cniwire.Error) {
	raw := make([]byte, 0, 2048)
	for len(raw) <= cniwire.MaxMessage {
		if len(raw) == cap(raw) {
			raw = append(raw, 0)[:len(raw)]
		}
		n, err := stdin.Read(raw[len(raw):cap(raw)])
		raw = raw[:len(raw)+n]
		switch {
		case errors.Is(err, io.EOF):
			return raw, nil
		case err != nil:
			return nil, &cniwire.Error{Code: cniwire.CodeIOFailure, Msg: "read the network configuration from standard input: " + err.Error()}
		}
	}
	return nil, tooLong()
}

func tooLong() *cniwire.Error {
	return invalidConf("network configuration: longer than " + strconv.Itoa(cniwire.MaxMessage) + " bytes; shorten it")
}

// parseConf reads the plugin's part of a JSON document; what names the document.
func parseConf(what string, raw []byte) (plugConf, *cniwire.Error) {
	var conf plugConf
	if len(raw) == 0 {
		return conf, &cniwire.Error{Code: cniwire.CodeDecodingFailure, Msg: what + ": missing; it is expected on standard input"}
	}
	doc, err := rawjson.Parse(raw)
	if err != nil {
		return conf, &cniwire.Error{Code: cniwire.CodeDecodingFailure, Msg: what + ": not JSON: " + err.Error()}
	}
	if kind := doc.Kind(); kind != rawjson.Object && kind != rawjson.Null {
		return conf, invalidConf(what + ": want an object, not " + string(kind))
	}
	for _, m := range doc.Members() {
		if failed := conf.take(what, m); failed != nil {
			return conf, failed
		}
	}
	return conf, nil
}

// take reads one member. Null is as good as absent, also where the name stands there
// twice: felix takes it so.
func (c *plugConf) take(what string, m rawjson.Member) *cniwire.Error {
	var into *string
	switch m.Name {
	case "cniVersion":
		into = &c.cniVersion
	case "name":
		into = &c.name
	case "felix_socket":
		into = &c.socket
	case "prevResult":
		if m.Value.Kind() == rawjson.Object {
			c.prevResult = m.Value.Raw()
		}
		return nil
	default:
		return nil
	}
	switch kind := m.Value.Kind(); kind {
	case rawjson.Null:
	case rawjson.String:
		*into = m.Value.Text()
	default:
		return invalidConf(what + ": key " + strconv.Quote(m.Name) + ": want a string, not " + string(kind))
	}
	return nil
}

// check refuses what CNI forbids.
func (c plugConf) check(command string) *cniwire.Error {
	switch {
	case c.name == "":
		return invalidConf(`network configuration: missing network name; add the key "name"`)
	case !isCNIName(c.name):
		return invalidConf(`network configuration: key "name": ` + strconv.Quote(c.name) + ": " + nameWanted)
	}
	return checkVersion(command, c.cniVersion)
}

func invalidConf(msg string) *cniwire.Error {
	return &cniwire.Error{Code: cniwire.CodeInvalidConfig, Msg: msg}
}
