package main

import (
	"slices"
	"testing"
)

func TestLostCountsRowsToTheVeryLastPacket(t *testing.T) {
	for _, tt := range []struct {
		name     string
		answered []int
		sent     int
		lost     []int
		longest  int
	}{
		{"nothing sent", nil, 0, nil, 0},
		{"all answered", []int{1, 2, 3}, 3, nil, 0},
		{"two rows", []int{1, 4, 6}, 6, []int{2, 3, 5}, 2},
		{"it never came back", []int{1, 2}, 5, []int{3, 4, 5}, 3},
		{"answers out of order", []int{3, 1}, 3, []int{2}, 1},
	} {
		answered := map[int]bool{}
		for _, n := range tt.answered {
			answered[n] = true
		}
		if lost, longest := lost(answered, tt.sent); !slices.Equal(lost, tt.lost) || longest != tt.longest {
			t.Errorf("%s: lost %v, %d in a row; want %v, %d", tt.name, lost, longest, tt.lost, tt.longest)
		}
	}
	if lost, longest := lost(nil, 1000); len(lost) != maxLost || longest != 1000 {
		t.Errorf("of 1000 lost: %d numbers, %d in a row", len(lost), longest)
	}
}
