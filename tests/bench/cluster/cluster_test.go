package cluster

import "testing"

func TestGrowthIsThatAfterTheWarmUp(t *testing.T) {
	rising, flat := Churn{}, Churn{}
	for hour := range 24 {
		rising.Resident = append(rising.Resident, 100+10*hour)
		flat.Resident = append(flat.Resident, 10*min(hour, warm)+hour%2)
	}
	if g := rising.Growth(); g < 1.5 {
		t.Errorf("growth %.2f of memory that doubles", g)
	}
	if g := flat.Growth(); g < 0.95 || g > 1.05 {
		t.Errorf("growth %.2f of memory that is flat after the warm-up", g)
	}
	if g := (Churn{Resident: []int{7}}).Growth(); g != 1 {
		t.Errorf("growth %.2f after one hour", g)
	}
}

func TestNoTwoNodesShareAnAddressOrBlock(t *testing.T) {
	seen := map[any]int{}
	for i := range clusterSize + 2 {
		for _, x := range []any{nodeAddr(i), block(i, 0), block(i, 7)} {
			if other, ok := seen[x]; ok {
				t.Fatalf("nodes %d and %d have %v", other, i, x)
			}
			seen[x] = i
		}
	}
}
