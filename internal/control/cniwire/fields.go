package cniwire

import (
	"strconv"

	"tortie/internal/rawjson"
)

func (r Request) appendJSON(dst []byte) ([]byte, error) {
	dst = append(dst, `{"version":`...)
	dst = strconv.AppendInt(dst, int64(r.Version), 10)
	dst = append(dst, `,"plugin":`...)
	dst = rawjson.AppendString(dst, r.Plugin)
	dst = append(dst, `,"command":`...)
	dst = rawjson.AppendString(dst, r.Command)
	dst = appendText(dst, `,"containerID":`, r.ContainerID)
	dst = appendText(dst, `,"netns":`, r.Netns)
	dst = appendText(dst, `,"netnsOverride":`, r.NetnsOverride)
	dst = appendText(dst, `,"ifName":`, r.IfName)
	dst = appendText(dst, `,"args":`, r.Args)
	dst = appendText(dst, `,"path":`, r.Path)
	dst = append(dst, `,"config":`...)
	dst, err := appendRaw(dst, r.Config)
	return append(dst, '}'), err
}

func (r Response) appendJSON(dst []byte) (_ []byte, err error) {
	dst = append(dst, '{')
	if r.Result != nil {
		dst = append(dst, `"result":`...)
		if dst, err = appendRaw(dst, r.Result); err != nil {
			return nil, err
		}
	}
	if e := r.Error; e != nil {
		if r.Result != nil {
			dst = append(dst, ',')
		}
		dst = append(dst, `"error":{"code":`...)
		dst = strconv.AppendUint(dst, uint64(e.Code), 10)
		dst = append(dst, `,"msg":`...)
		dst = rawjson.AppendString(dst, e.Msg)
		dst = append(appendText(dst, `,"details":`, e.Details), '}')
	}
	return append(dst, '}'), nil
}

// appendText appends a string under its key, unless it is empty.
func appendText(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	return rawjson.AppendString(append(dst, key...), s)
}

// appendRaw appends JSON, on one line and known to be valid; null for none.
func appendRaw(dst, raw []byte) ([]byte, error) {
	if len(raw) == 0 {
		return append(dst, "null"...), nil
	}
	v, err := rawjson.Parse(raw)
	if err != nil {
		return nil, err
	}
	return rawjson.AppendCompact(dst, v), nil
}

// decode takes the members it knows; the last of a name holds.
func (r *Request) decode(members []rawjson.Member) error {
	texts := map[string]*string{
		"plugin": &r.Plugin, "command": &r.Command, "containerID": &r.ContainerID, "netns": &r.Netns,
		"netnsOverride": &r.NetnsOverride, "ifName": &r.IfName, "args": &r.Args, "path": &r.Path,
	}
	for _, m := range members {
		switch m.Name {
		case "version":
			n, err := number(m)
			if err != nil {
				return err
			}
			r.Version = n
		case "config":
			r.Config = m.Value.Raw()
		default:
			into, known := texts[m.Name]
			if !known {
				continue
			}
			if err := want(m.Value, rawjson.String, m.Name); err != nil {
				return err
			}
			*into = m.Value.Text()
		}
	}
	return nil
}

func (r *Response) decode(members []rawjson.Member) error {
	for _, m := range members {
		switch m.Name {
		case "result":
			r.Result = m.Value.Raw()
		case "error":
			if err := want(m.Value, rawjson.Object, m.Name); err != nil {
				return err
			}
			r.Error = &Error{}
			if err := r.Error.decode(m.Value.Members()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Error) decode(members []rawjson.Member) error {
	for _, m := range members {
		switch m.Name {
		case "code":
			n, err := number(m)
			if err != nil {
				return err
			}
			e.Code = uint(n)
		case "msg", "details":
			if err := want(m.Value, rawjson.String, m.Name); err != nil {
				return err
			}
			if m.Name == "msg" {
				e.Msg = m.Value.Text()
			} else {
				e.Details = m.Value.Text()
			}
		}
	}
	return nil
}

// number reads a number that no version of this conversation makes negative.
func number(m rawjson.Member) (int, error) {
	n, err := strconv.ParseUint(string(m.Value.Raw()), 10, 31)
	if err != nil {
		return 0, &failure{"decode message: " + m.Name, err}
	}
	return int(n), nil
}

// want refuses a value of another kind.
func want(v rawjson.Value, kind rawjson.Kind, what string) error {
	if v.Kind() == kind {
		return nil
	}
	return &kindError{what: what, want: kind, got: v.Kind()}
}

// kindError says that a field is of another kind than the conversation has it.
type kindError struct {
	what      string
	want, got rawjson.Kind
}

func (e *kindError) Error() string {
	return "decode message: " + e.what + " is of kind " + string(e.got) + ", want " + string(e.want)
}
