package netconf

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestAnnotationsAreReadOrRefusedByName(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, tc := range []struct {
		name, value string
		want        Wishes
		says        string
	}{
		{"ipv4pools", `["pool-a", "10.0.0.0/16"]`, Wishes{Pools4: []string{"pool-a", "10.0.0.0/16"}}, ""},
		{"ipv6pools", `["fd00::/48"]`, Wishes{Pools6: []string{"fd00::/48"}}, ""},
		{"ipv4pools", `pool-a`, Wishes{}, `"pool-a": want a list in JSON such as ["pool-a"]`},
		{"ipv4pools", `[]`, Wishes{}, "want a list in JSON"},
		{"ipv4pools", `["fd00::/48"]`, Wishes{}, "is of the other address family"},
		{"ipFamilies", `["IPv6"]`, Wishes{Families: []int{6}}, ""},
		{"ipFamilies", `["IPv5"]`, Wishes{}, `"IPv5" is no IP version`},
		{"ipAddrs", `["10.0.0.1", "fd00::1"]`, Wishes{Addrs: addrs("10.0.0.1", "fd00::1")}, ""},
		{"ipAddrs", `["10.0.0.1", "10.0.0.2"]`, Wishes{}, `"10.0.0.2" is the second address of its IP version`},
		{"ipAddrs", `["ten"]`, Wishes{}, `"ten" is no address`},
		{"ipAddrsNoIpam", `["192.0.2.1"]`, Wishes{Addrs: addrs("192.0.2.1"), NoIPAM: true}, ""},
		{"hwAddr", `02:00:00:00:00:AB`, Wishes{MAC: "02:00:00:00:00:ab"}, ""},
		{"hwAddr", `03:00:00:00:00:01`, Wishes{}, "not the MAC address of one interface"},
		{"hwAddr", `1c-2d`, Wishes{}, `"1c-2d" is no MAC address`},
		{"floatingIPs", `["10.0.0.9", "fd00::9"]`, Wishes{Floating: addrs("10.0.0.9", "fd00::9")}, ""},
		{"floatingIPs", `["10.0.0.9/32"]`, Wishes{}, `"10.0.0.9/32" is no address`},
		{"allowedSourcePrefixes", `["10.0.0.1/8", "fd00::/8"]`, Wishes{Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}, ""},
		{"allowedSourcePrefixes", `["10.0.0.1"]`, Wishes{}, `"10.0.0.1" is no prefix; want one such as 192.0.2.0/24`},
		{"podIP", `10.0.0.1/32`, Wishes{}, ""}, // upstream's plugin writes it
	} {
		t.Run(tc.name+" "+tc.value, func(t *testing.T) {
			got, err := ParseAnnotations(map[string]string{"cni.projectcalico.org/" + tc.name: tc.value, "other.example/" + tc.name: "x"})
			if tc.says == "" {
				if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				return
			}
			wrong, ok := errors.AsType[*AnnotationError](err)
			if !ok || wrong.Name != tc.name || !strings.Contains(err.Error(), "annotation cni.projectcalico.org/"+tc.name+" of the pod: ") || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one about %s that says %q", err, tc.name, tc.says)
			}
		})
	}
}

func TestPodCIDRsComeInPlaceOfTheirWords(t *testing.T) {
	both := func() []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd44::/64")}
	}
	for _, tc := range []struct{ conf, want string }{
		{`{"ipam":{"subnet":"10.0.0.0/8","type":"host-local"}}`, `{"ipam":{"subnet":"10.0.0.0/8","type":"host-local"}}`},
		{`{"ipam":{"subnet":"usePodCidr","n":12345678901234567890},"name":"n"}`, `{"ipam":{"n":12345678901234567890,"subnet":"10.244.1.0/24"},"name":"n"}`},
		{`{"ipam":{"ranges":[[{"subnet":"usePodCidr"}],[{"subnet":"usePodCidrIPv6"}]]}}`, `{"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd44::/64"}]]}}`},
	} {
		got, err := WithPodCIDRs([]byte(tc.conf), both)
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: %s, %v; want %s", tc.conf, got, err, tc.want)
		}
	}
	for word, known := range map[string]func() []netip.Prefix{
		"usePodCidr": nil, "usePodCidrIPv6": func() []netip.Prefix { return both()[:1] },
	} {
		_, err := WithPodCIDRs([]byte(`{"ipam":{"subnet":"`+word+`"}}`), known)
		if lacks, ok := errors.AsType[*NoPodCIDRError](err); !ok || lacks.Word != word {
			t.Errorf("%s: %v", word, err)
		}
	}
}

func TestAnnotationsThatContradictOneAnotherAreRefused(t *testing.T) {
	for other, value := range map[string]string{"ipAddrsNoIpam": `["192.0.2.1"]`, "ipv4pools": `["pool-a"]`} {
		_, err := ParseAnnotations(map[string]string{"cni.projectcalico.org/ipAddrs": `["10.0.0.1"]`, "cni.projectcalico.org/" + other: value})
		if err == nil || !strings.Contains(err.Error(), "as well; give") {
			t.Errorf("ipAddrs and %s: %v", other, err)
		}
	}
}
