package netconf

import (
	"encoding/json"
	"fmt"
)

// The keys under which GC gets the runtime's list. The older one is what the
// specification called it at first; runtimes write both.
const (
	attachmentsKey    = "cni.dev/valid-attachments"
	oldAttachmentsKey = "cni.dev/attachments"
)

// ValidAttachment is one that the runtime says is alive.
type ValidAttachment struct{ ContainerID, IfName string }

// ParseAttachments reads GC's list. GC takes away what is not in it, so nothing is
// guessed: without the key, or with an entry that can't be an attachment, it is an
// error. An empty list says that none is alive, and so does null: that is what CNI's
// library writes for a runtime that has none (GCArgs.ValidAttachments, a nil slice).
func ParseAttachments(raw []byte) ([]ValidAttachment, error) {
	var conf map[string]json.RawMessage
	if err := decode("", raw, &conf); err != nil {
		return nil, err
	}
	key := attachmentsKey
	list, ok := conf[key]
	if !ok {
		key = oldAttachmentsKey
		list, ok = conf[key]
	}
	if !ok {
		return nil, &Error{Key: attachmentsKey, Reason: "missing; GC removes every attachment that is not listed there, so the runtime must give the list, [] for none"}
	}
	var entries []map[string]json.RawMessage
	if err := decode(key, list, &entries); err != nil {
		return nil, err
	}
	valid := make([]ValidAttachment, 0, len(entries))
	for i, entry := range entries {
		where := fmt.Sprintf("%s[%d]", key, i)
		container, err := textOf(where, entry, "containerID")
		if err != nil {
			return nil, err
		}
		ifName, err := textOf(where, entry, "ifname")
		if err != nil {
			return nil, err
		}
		switch { // what ADD would have refused is not taken for a living one
		case !CanBeContainer(container):
			return nil, impossible(where+".containerID", container, "container's ID")
		case !CanBeInterface(ifName):
			return nil, impossible(where+".ifname", ifName, "interface's name")
		}
		valid = append(valid, ValidAttachment{ContainerID: container, IfName: ifName})
	}
	return valid, nil
}

func impossible(key, value, what string) error {
	return &Error{Key: key, Reason: fmt.Sprintf("%q can't be a %s; nothing was removed", value, what)}
}

// textOf reads a string that must be there and not be empty.
func textOf(where string, entry map[string]json.RawMessage, key string) (string, error) {
	text := ""
	if raw, ok := entry[key]; ok {
		if err := decode(where+"."+key, raw, &text); err != nil {
			return "", err
		}
	}
	if text == "" {
		return "", &Error{Key: where + "." + key, Reason: "missing; an entry is {\"containerID\": …, \"ifname\": …}; nothing was removed"}
	}
	return text, nil
}
