package cmd

import (
	"slices"
	"strings"

	"tortie/internal/suggest"
)

// maxNear is how many names a message proposes.
const maxNear = 3

// nearest are the names that a word probably means, the likeliest first: those
// whose start it is, then those it is a part of, then those a few letters away
// from it. Each of names is a name with its other forms, all in lower case.
func nearest(word string, names [][]string) []string {
	const enough = 3 // letters; less is like everything
	word = strings.ToLower(word)
	if len(word) < enough {
		return nil
	}
	type candidate struct {
		name string
		rank int
	}
	var near []candidate
	for _, forms := range names {
		best := -1
		for _, form := range forms {
			if rank := likeness(word, form); rank >= 0 && (best < 0 || rank < best) {
				best = rank
			}
		}
		if best >= 0 {
			near = append(near, candidate{forms[0], best})
		}
	}
	slices.SortStableFunc(near, func(a, b candidate) int { return a.rank - b.rank })
	var list []string
	for _, c := range near[:min(len(near), maxNear)] {
		list = append(list, c.name)
	}
	return list
}

// likeness ranks how probable it is that a word means a form, 0 the most; it is
// negative if it probably doesn't.
func likeness(word, form string) int {
	const part = 2 // as unlikely as so many wrong letters
	switch {
	case strings.HasPrefix(form, word):
		return 0
	case strings.Contains(form, word):
		return part
	}
	// One wrong letter in three: a longer word may be worse and still be meant.
	if d := suggest.Distance(word, form); d <= min(len(word), len(form))/3 {
		return d
	}
	return -1
}
