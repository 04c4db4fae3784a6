package manifestfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	yamlnode "gopkg.in/yaml.v3"
	"sigs.k8s.io/yaml"

	"tortie/internal/api"
)

// json is the document as JSON. Duplicate keys are an error: one of the two
// values would be lost silently.
func (r *rawDocument) json() ([]byte, error) {
	if r.err != nil {
		return nil, &Error{Source: r.source, Err: fmt.Errorf("not valid JSON: %w", r.err)}
	}
	if r.isJSON {
		return r.text, nil
	}
	out, err := yaml.YAMLToJSONStrict(r.text)
	if err == nil {
		err = r.nothingFollows()
	}
	if err != nil {
		return nil, r.yamlError(err)
	}
	return out, nil
}

// nothingFollows makes sure that the document is one value: the conversion to
// JSON stops after the first and would lose what comes behind it. A block
// mapping, which starts with a key, ends only with its document.
func (r *rawDocument) nothingFollows() error {
	if c := r.text[0]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
		return nil
	}
	dec := yamlnode.NewDecoder(bytes.NewReader(r.text))
	var node yamlnode.Node
	if err := dec.Decode(&node); err != nil {
		return err
	}
	if err := dec.Decode(&node); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("a second value follows the first; put --- between them")
		}
		return err
	}
	return nil
}

var lineInMessage = regexp.MustCompile(`line (\d+): `)

// yamlError moves the line number of a YAML error from the document to the file.
func (r *rawDocument) yamlError(err error) error {
	text := err.Error()
	source := r.source
	if m := lineInMessage.FindStringSubmatch(text); m != nil {
		if line, convErr := strconv.Atoi(m[1]); convErr == nil && line > 0 {
			source.Line += line - 1
			// The parser counts its lines from 0, the scanner from 1.
			if strings.Contains(text, "did not find expected") {
				source.Line++
			}
		}
	}
	for _, noise := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:"} {
		text = strings.ReplaceAll(text, noise, "")
	}
	text = strings.Join(strings.Fields(lineInMessage.ReplaceAllString(text, "")), " ")
	return &Error{Source: source, Err: errors.New("not valid YAML: " + text)}
}

// decode turns the document into resources: one, or the items of a List or an
// array.
func (r *rawDocument) decode(dec Decoder) ([]Document, error) {
	doc, err := r.json()
	if err != nil {
		return nil, err
	}
	items, listed, err := expand(doc)
	if err != nil {
		return nil, &Error{Source: r.source, Err: err}
	}
	var (
		docs []Document
		errs []error
	)
	for i, item := range items {
		source := r.source
		if listed {
			source.Item = i + 1
			source = r.at(source, "")
		}
		obj, err := dec.DecodeStrict(item)
		if err != nil {
			source = r.at(source, FirstField(err))
			errs = append(errs, &Error{Source: source, Err: err})
			continue
		}
		docs = append(docs, Document{Source: source, Object: obj, doc: r})
	}
	return docs, errors.Join(errs...)
}

// expand returns the resources of a document and whether they were in a List or
// an array. Items of an "IPPoolList" without a kind are IPPools.
func expand(doc []byte) (items []json.RawMessage, listed bool, err error) {
	trimmed := bytes.TrimLeft(doc, " \t\r\n")
	if len(trimmed) > 0 && trimmed[0] == '[' {
		if err := json.Unmarshal(doc, &items); err != nil {
			return nil, true, err
		}
		return items, true, nil
	}
	var head struct {
		Kind       string            `json:"kind"`
		APIVersion string            `json:"apiVersion"`
		Items      []json.RawMessage `json:"items"`
	}
	if len(trimmed) == 0 || trimmed[0] != '{' || json.Unmarshal(doc, &head) != nil {
		// Not a resource: the decoder says what is missing.
		if len(trimmed) == 0 || trimmed[0] != '{' {
			return nil, false, errors.New("not a resource: want a mapping with apiVersion, kind, metadata and spec")
		}
		return []json.RawMessage{doc}, false, nil
	}
	kind, isList := strings.CutSuffix(head.Kind, "List")
	if !isList {
		return []json.RawMessage{doc}, false, nil
	}
	for i, item := range head.Items {
		typed, err := withType(item, kind, head.APIVersion)
		if err != nil {
			return nil, true, fmt.Errorf("items[%d]: %w", i, err)
		}
		head.Items[i] = typed
	}
	return head.Items, true, nil
}

// withType fills in an item's kind and apiVersion from its List, where absent.
func withType(item json.RawMessage, kind, apiVersion string) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(item, &fields); err != nil {
		return nil, errors.New("not a resource: want a mapping")
	}
	if kind == "" || len(fields["kind"]) > 0 {
		return item, nil
	}
	fields["kind"] = json.RawMessage(strconv.Quote(kind))
	if len(fields["apiVersion"]) == 0 {
		fields["apiVersion"] = json.RawMessage(strconv.Quote(apiVersion))
	}
	return json.Marshal(fields)
}

// at is source with the line of a field. JSON is YAML enough to be searched the
// same way.
func (r *rawDocument) at(source Source, field string) Source {
	if r == nil {
		return source
	}
	var root yamlnode.Node
	if yamlnode.Unmarshal(r.text, &root) != nil || len(root.Content) == 0 {
		return source
	}
	node := root.Content[0]
	if source.Item > 0 {
		if node.Kind == yamlnode.MappingNode {
			_, node = child(node, "items")
		}
		if node == nil || node.Kind != yamlnode.SequenceNode || source.Item > len(node.Content) {
			return source
		}
		node = node.Content[source.Item-1]
		source.Line = r.source.Line + node.Line - 1
	}
	if line := deepestLine(node, pathSegments(field)); line > 0 {
		source.Line = r.source.Line + line - 1
	}
	return source
}

// FirstField is the path of the first field a validation error complains of;
// empty for any other error.
func FirstField(err error) string {
	if invalid, ok := errors.AsType[*api.ValidationError](err); ok && len(invalid.Problems) > 0 {
		return invalid.Problems[0].Field
	}
	return ""
}

// deepestLine follows a path as far as the document has it and returns the line
// of the last key found; 0 when not even the first is there.
func deepestLine(node *yamlnode.Node, path []string) int {
	line := 0
	for _, segment := range path {
		var key *yamlnode.Node
		if key, node = child(node, segment); node == nil {
			return line
		}
		line = key.Line
	}
	return line
}

// child finds a mapping's value by key or a sequence's by index; key is what
// carries the line.
func child(node *yamlnode.Node, segment string) (key, value *yamlnode.Node) {
	switch node.Kind {
	case yamlnode.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == segment {
				return node.Content[i], node.Content[i+1]
			}
		}
	case yamlnode.SequenceNode:
		if i, err := strconv.Atoi(segment); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	case yamlnode.AliasNode:
		return child(node.Alias, segment)
	default: // a scalar has no children
	}
	return nil, nil
}

// pathSegments splits "spec.ingress[0].source" into spec, ingress, 0, source.
func pathSegments(field string) []string {
	return strings.FieldsFunc(field, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}
