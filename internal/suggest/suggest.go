// Package suggest finds the name that someone probably meant.
package suggest

import "strings"

// Nearest is the candidate that differs least from a mistyped word, by edit
// distance without regard to case; empty when none is near. Of equally near ones
// it is the first in the alphabet.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", 2+min(len(word)/3, 3)
	for _, c := range candidates {
		d := Distance(strings.ToLower(word), strings.ToLower(c))
		if d < bestDistance || d == bestDistance && best != "" && c < best {
			best, bestDistance = c, d
		}
	}
	return best
}

// Distance is how many bytes must be inserted, left out or replaced to make b of
// a (Levenshtein's distance). Case counts.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for k := range len(b) {
			cost := diagonal
			if a[i] != b[k] {
				cost++
			}
			diagonal = row[k+1]
			row[k+1] = min(cost, row[k]+1, row[k+1]+1)
		}
	}
	return row[len(b)]
}
