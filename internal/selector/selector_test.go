package selector_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tortie/internal/selector"
)

func TestMatches(t *testing.T) {
	labels := map[string]string{"role": "db", "env": "prod", "app.kubernetes.io/name": "web-1", "empty": "", "q": `it's`}
	tests := []struct {
		selector string
		want     bool
	}{
		{``, true},
		{`  `, true},
		{`all()`, true},
		{`all( )`, true},
		{`global()`, true},
		{`!all()`, false},
		{`role == "db"`, true},
		{`role == 'db'`, true},
		{`role=='db'`, true},
		{`role == "web"`, false},
		{`absent == ""`, false},
		{`empty == ""`, true},
		{`role != "db"`, false},
		{`role != "web"`, true},
		{`absent != "web"`, true},
		{`role in {"web", 'db'}`, true},
		{`role in{"web"}`, false},
		{`role in {}`, false},
		{`absent in {"web"}`, false},
		{`role not in {"web", "db"}`, false},
		{`role not in {"web"}`, true},
		{`role not  in {}`, true},
		{`absent not in {"web"}`, true},
		{`has(role)`, true},
		{`has( app.kubernetes.io/name )`, true},
		{`has(absent)`, false},
		{`!has(absent)`, true},
		{`! ! has(absent)`, false},
		{`role contains "b"`, true},
		{`role contains "x"`, false},
		{`absent contains ""`, false},
		{`app.kubernetes.io/name starts with "web"`, true},
		{`app.kubernetes.io/name starts with "eb"`, false},
		{`app.kubernetes.io/name ends with "-1"`, true},
		{`app.kubernetes.io/name ends with "-2"`, false},
		{`absent starts with ""`, false},
		{`absent ends with ""`, false},
		{`q == "it's"`, true},
		{`role == "db" && env == "prod"`, true},
		{`role == "db" && env == "dev"`, false},
		{`role == "web" || env == "prod"`, true},
		{`role == "web" || env == "dev"`, false},
		{`role == "web" && env == "dev" || role == "db"`, true},
		{`role == "web" && (env == "dev" || role == "db")`, false},
		{`role == "db" || role == "web" && env == "dev"`, true},
		{`!(role == "web") && !(env == "dev")`, true},
		{`!role == "web"`, true},
		{"role\t==\n'db'", true},
		{`in == "x" || not == "x" || has == "x" || all == "x" || !has(contains)`, true},
	}
	for _, tt := range tests {
		s, err := selector.Parse(tt.selector)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.selector, err)
			continue
		}
		if got := s.Matches(labels); got != tt.want {
			t.Errorf("%q matches: %v, want %v", tt.selector, got, tt.want)
		}
	}
}

func TestStringIsCanonical(t *testing.T) {
	tests := map[string]string{
		``:                               `all()`,
		`a=='b'`:                         `a == "b"`,
		`a == 'say "b"'`:                 `a == 'say "b"'`,
		`a in {'z',"b", 'b'}`:            `a in {"b", "z"}`,
		`a   not   in {"b"}`:             `a not in {"b"}`,
		`((has(a)))`:                     `has(a)`,
		`has(a)&&(has(b)&&has(c))`:       `(has(a) && has(b) && has(c))`,
		`has(a) || has(b) && has(c)`:     `(has(a) || (has(b) && has(c)))`,
		`! ( has(a) || has(b) )`:         `!(has(a) || has(b))`,
		`a starts  with "x"`:             `a starts with "x"`,
		`a ends with 'x'||a contains'y'`: `(a ends with "x" || a contains "y")`,
	}
	for text, want := range tests {
		s, err := selector.Parse(text)
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if got := s.String(); got != want {
			t.Errorf("Parse(%q).String() = %q, want %q", text, got, want)
		}
	}
}

func TestParseErrorsGiveTheColumn(t *testing.T) {
	tests := []struct {
		selector string
		column   int
		reason   string
	}{
		{`a`, 2, "got the end"},
		{`a = 'b'`, 3, `want ==, !=, in, not in, contains, starts with or ends with, got "="`},
		{`a == b`, 6, "want a string in quotes"},
		{`a == 'b`, 6, "no closing '"},
		{`a in ['b']`, 6, "want {"},
		{`a in {'b' 'c'}`, 11, "want , or }"},
		{`a in {'b',}`, 11, "want a string in quotes"},
		{`a in {,'b'}`, 7, "want a string in quotes"},
		{`a in {'b'`, 10, "want , or }, got the end"},
		{`a not 'b'`, 3, "not in"},
		{`a starts 'b'`, 3, "starts with"},
		{`has()`, 5, "want a label"},
		{`has(a`, 6, "want ), got the end"},
		{`hat(a)`, 1, `unknown function "hat"`},
		{`all(a)`, 5, "want )"},
		{`(has(a)`, 8, "want )"},
		{`has(a))`, 7, "want &&, || or the end"},
		{`has(a) has(b)`, 8, "want &&, || or the end"},
		{`has(a) &`, 8, "want &&, || or the end"},
		{`has(a) &&`, 10, "want a label"},
		{`|| has(a)`, 1, "want a label"},
		{`a == 'ü' $`, 11, "want &&, || or the end"},
		{`ä == 'b'`, 1, "want a label"},
		{strings.Repeat("!", 300) + "has(a)", 201, "nested deeper than 200"},
		{strings.Repeat("!", 198) + "(has(a) || has(b) && has(c))", 1, "operators are nested deeper than 200"},
		{strings.Repeat("(", 300), 201, "nested deeper than 200"},
		{"has(" + strings.Repeat("x", 513) + ")", 5, "longer than 512"},
	}
	for _, tt := range tests {
		_, err := selector.Parse(tt.selector)
		var parseError *selector.ParseError
		if !errors.As(err, &parseError) {
			t.Errorf("Parse(%q): %v, want a ParseError", tt.selector, err)
			continue
		}
		if parseError.Column != tt.column || !strings.Contains(parseError.Reason, tt.reason) {
			t.Errorf("Parse(%q): column %d: %s; want column %d: …%s…",
				tt.selector, parseError.Column, parseError.Reason, tt.column, tt.reason)
		}
	}
}

func TestIDsDifferExactlyWhenCanonicalTextsDo(t *testing.T) {
	id := func(text string) string {
		s, err := selector.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return s.ID()
	}
	if id(`a=='b'`) != id(`( a == "b" )`) {
		t.Error("equal selectors have different IDs")
	}
	if id(`a == "b"`) == id(`a == "c"`) {
		t.Error("different selectors have the same ID")
	}
	// The ID is kept in other programs' state: it must never change.
	if got, want := id(`all()`), "s:JagxTFX-YkWVyoC8GnqNsRzb"; got != want {
		t.Errorf("ID of all() = %s, want %s", got, want)
	}
}

// selectors generates the text of a selector with all operators.
func selectors() *rapid.Generator[string] {
	label := rapid.SampledFrom([]string{"a", "b", "c.d/e-f_1", "in", "not"})
	value := rapid.SampledFrom([]string{`"x"`, `'y'`, `""`, `'"'`, `"'"`, `"xy"`})
	space := rapid.SampledFrom([]string{" ", "  ", "\t"})
	var expr func(depth int) *rapid.Generator[string]
	expr = func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			sp := space.Draw(t, "space")
			most := 9
			if depth == 0 {
				most = 6
			}
			switch rapid.IntRange(0, most).Draw(t, "operation") {
			case 0:
				return rapid.SampledFrom([]string{"all()", "global()"}).Draw(t, "constant")
			case 1:
				return "has(" + label.Draw(t, "label") + ")"
			case 2:
				in := rapid.SampledFrom([]string{"in", "not in"}).Draw(t, "in")
				set := rapid.SliceOfN(value, 0, 3).Draw(t, "set")
				return label.Draw(t, "label") + sp + in + sp + "{" + strings.Join(set, ","+sp) + "}"
			case 7:
				return "!" + sp + expr(depth-1).Draw(t, "operand")
			case 8, 9:
				op := rapid.SampledFrom([]string{"&&", "||"}).Draw(t, "group")
				text := expr(depth-1).Draw(t, "left") + sp + op + sp + expr(depth-1).Draw(t, "right")
				if rapid.Bool().Draw(t, "parentheses") {
					text = "(" + text + ")"
				}
				return text
			default:
				op := rapid.SampledFrom([]string{"==", "!=", "contains", "starts with", "ends with"}).Draw(t, "op")
				return label.Draw(t, "label") + sp + op + sp + value.Draw(t, "value")
			}
		})
	}
	return expr(4)
}

func TestCanonicalTextParsesToAnEqualSelector(t *testing.T) {
	labelSets := rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c.d/e-f_1", "in"}), rapid.SampledFrom([]string{"x", "y", "", `"`, "xy"}))
	rapid.Check(t, func(t *rapid.T) {
		s, err := selector.Parse(selectors().Draw(t, "selector"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := selector.Parse(s.String())
		if err != nil {
			t.Fatalf("canonical text doesn't parse: %v", err)
		}
		if again.String() != s.String() {
			t.Fatalf("%q becomes %q", s, again)
		}
		labels := labelSets.Draw(t, "labels")
		if s.Matches(labels) != again.Matches(labels) {
			t.Fatalf("%q and %q differ on %v", s, again, labels)
		}
	})
}

// TestNegationIsTheComplement checks the operators against one another.
func TestNegationIsTheComplement(t *testing.T) {
	labelSets := rapid.MapOf(rapid.SampledFrom([]string{"a", "b"}), rapid.SampledFrom([]string{"x", "y", "xy"}))
	pairs := [][2]string{
		{`a == "x"`, `a != "x"`},
		{`a in {"x", "y"}`, `a not in {"x", "y"}`},
		{`has(a) && has(b)`, `!has(a) || !has(b)`},
	}
	rapid.Check(t, func(t *rapid.T) {
		labels := labelSets.Draw(t, "labels")
		for _, pair := range pairs {
			a, errA := selector.Parse(pair[0])
			b, errB := selector.Parse(pair[1])
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			if a.Matches(labels) == b.Matches(labels) {
				t.Fatalf("%q and %q agree on %v", a, b, labels)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{``, `a == "b"`, `a in {"b", 'c'} && !has(d) || all()`, `(a starts with "x")`, `!!!(`, "a == '\xff'"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := selector.Parse(text)
		if err != nil {
			return
		}
		again, err := selector.Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q: canonical %q parses to %v, %v", text, s, again, err)
		}
		labels := map[string]string{"a": "b"}
		if s.Matches(labels) != again.Matches(labels) {
			t.Fatalf("%q and %q differ", text, s)
		}
	})
}

func BenchmarkMatches(b *testing.B) {
	s, err := selector.Parse(`role in {"db", "web"} && env == "prod" && !has(canary)`)
	if err != nil {
		b.Fatal(err)
	}
	labels := map[string]string{"role": "db", "env": "prod"}
	b.ReportAllocs()
	for b.Loop() {
		if !s.Matches(labels) {
			b.Fatal("no match")
		}
	}
}
