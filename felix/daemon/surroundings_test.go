package daemon

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tortie/felix/calc"
	"tortie/felix/given"
	"tortie/internal/kernel"
)

// around is a node's kernel with one device and three ways out.
type around struct{}

func (around) Addresses(int) ([]kernel.Address, error) {
	return []kernel.Address{{Link: 2, Prefix: netip.MustParsePrefix("192.0.2.1/24")}}, nil
}

func (around) Routes(context.Context, kernel.RouteFilter) ([]kernel.Route, error) {
	addr := netip.MustParseAddr
	return []kernel.Route{
		{Gateway: addr("192.0.2.254")},
		{Link: 2},
		{NextHops: kernel.NewNextHops(kernel.NextHop{Link: 2, Gateway: addr("192.0.2.253")}, kernel.NextHop{Link: 3, Gateway: addr("192.0.2.254")})},
	}, nil
}

// TestSurroundingsOfTheNode are what no pod may take: etcd by whatever name felix knows it.
func TestSurroundingsOfTheNode(t *testing.T) {
	addr := netip.MustParseAddr
	s := surroundings{
		kernel: around{}, etcd: []string{"https://192.0.2.70:2379", "http://etcd.example:2379", "[2001:db8::70]:2379", "gone.example:2379"},
		resolve: func(_ context.Context, network, host string) ([]netip.Addr, error) {
			if network != "ip" || host != "etcd.example" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{addr("::ffff:192.0.2.71"), addr("2001:db8::71")}, nil
		},
		desired: func() calc.State { return calc.State{Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}} },
	}
	got, err := s.now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := given.Surroundings{
		Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, Gateways: []netip.Addr{addr("192.0.2.254"), addr("192.0.2.253")},
		Etcd:     []netip.Addr{addr("192.0.2.70"), addr("192.0.2.71"), addr("2001:db8::71"), addr("2001:db8::70")},
		Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("surroundings (-want +got):\n%s", diff)
	}
}
