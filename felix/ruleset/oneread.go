package ruleset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"

	"sigs.k8s.io/knftables"
)

// oneRead is the nft command that reads all of a table with one process, when ListAll is
// called, and takes from there what ListRules and ListElements are asked for: one process
// for every chain and set is what a small node feels, and each would see another moment.
type oneRead struct {
	knftables.Interface
	family knftables.Family
	path   string
	last   []object
}

func newOneRead(family knftables.Family) (*oneRead, error) {
	nft, err := knftables.New(family, Table)
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil, err
	}
	return &oneRead{Interface: nft, family: family, path: path}, nil
}

// object is one of a table.
type object struct {
	Kind          string `json:"-"`
	Name          string
	Chain         string // of a rule
	Comment       *string
	ElementsAsNft []any `json:"elem"`
}

// ListAll reads the table.
func (n *oneRead) ListAll(ctx context.Context) (map[string][]string, error) {
	out, err := exec.CommandContext(ctx, n.path, "--json", "list", "table", string(n.family), Table).Output()
	if err != nil {
		if _, listErr := n.Interface.ListAll(ctx); listErr != nil { // which tells a missing table from a failure
			return nil, listErr
		}
		return nil, withStderr(err)
	}
	if n.last, err = parse(out); err != nil {
		return nil, fmt.Errorf("read what nft says: %w", err)
	}
	names := map[string][]string{}
	for _, o := range n.last {
		if o.Name != "" {
			names[o.Kind] = append(names[o.Kind], o.Name)
		}
	}
	return names, nil
}

func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return fmt.Errorf("nft: %w", err)
}

// ListRules gives the comments alone.
func (n *oneRead) ListRules(_ context.Context, chain string) ([]*knftables.Rule, error) {
	var rules []*knftables.Rule
	for _, o := range n.last {
		if o.Kind == "rule" && (chain == "" || o.Chain == chain) {
			rules = append(rules, &knftables.Rule{Chain: o.Chain, Comment: o.Comment})
		}
	}
	return rules, nil
}

// ListElements gives keys and values.
func (n *oneRead) ListElements(_ context.Context, kind, name string) ([]*knftables.Element, error) {
	i := slices.IndexFunc(n.last, func(o object) bool { return o.Kind == kind && o.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("there was no %s %s", kind, name)
	}
	var list []*knftables.Element
	for _, e := range n.last[i].ElementsAsNft {
		pair, _ := e.([]any)
		switch {
		case kind == "set":
			list = append(list, &knftables.Element{Set: name, Key: notation(e)})
		case len(pair) == 2:
			list = append(list, &knftables.Element{Map: name, Key: notation(pair[0]), Value: notation(pair[1])})
		default:
			return nil, fmt.Errorf("map %s: nft says %v, which is no pair", name, e)
		}
	}
	return list, nil
}

// parse reads nft's JSON.
func parse(out []byte) ([]object, error) {
	var all struct{ Nftables []map[string]object }
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, err
	}
	var list []object
	for _, entry := range all.Nftables {
		for kind, o := range entry { // there is one
			if kind != "metainfo" && kind != "table" {
				o.Kind = kind
				list = append(list, o)
			}
		}
	}
	return list, nil
}

// notation is the parts of a key or value of nft's JSON. What nobody here writes becomes
// a text that nobody wants either.
func notation(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case float64:
		return []string{strconv.FormatFloat(v, 'f', -1, 64)}
	case map[string]any:
		if len(v) == 1 {
			for kind, inner := range v {
				return compound(kind, inner)
			}
		}
	}
	return []string{fmt.Sprint(v)}
}

func compound(kind string, inner any) []string {
	list, _ := inner.([]any)
	fields, _ := inner.(map[string]any)
	switch {
	case kind == "concat":
		var parts []string
		for _, part := range list {
			parts = append(parts, notation(part)...)
		}
		return parts
	case kind == "prefix":
		return []string{fmt.Sprintf("%v/%v", fields["addr"], fields["len"])}
	case kind == "elem": // with a counter, or a comment
		return notation(fields["val"])
	case inner == nil: // a verdict
		return []string{kind}
	case fields["target"] != nil:
		return []string{fmt.Sprintf("%s %v", kind, fields["target"])}
	}
	return []string{fmt.Sprintf("%s %v", kind, inner)}
}
