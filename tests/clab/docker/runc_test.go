package docker

import (
	"slices"
	"testing"
)

func TestOneCapabilityIsTakenOutAndNothingElseChanges(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{
			"a bundle's",
			`{"linux":{"resources":{"memory":{"limit":9007199254740993}}},"process":{"capabilities":{"bounding":["CAP_SYS_RESOURCE","CAP_NET_ADMIN"],"effective":["CAP_SYS_RESOURCE"]}}}`,
			`{"linux":{"resources":{"memory":{"limit":9007199254740993}}},"process":{"capabilities":{"bounding":["CAP_NET_ADMIN"],"effective":[]}}}`,
		},
		{"a process'", `{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"]}}`, `{"capabilities":{"bounding":["CAP_CHOWN"]}}`},
		{"without capabilities", `{"args":["CAP_SYS_RESOURCE"]}`, `{"args":["CAP_SYS_RESOURCE"]}`},
	} {
		got, err := withoutCapability([]byte(tt.spec), sysResource)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
	if _, err := withoutCapability([]byte("{"), sysResource); err == nil {
		t.Error("half a specification: no error")
	}
}

func TestSpecificationsAreFoundInRuncsCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--root", "/r", "create", "--bundle", "/b", "id"}, []string{"/b/config.json"}},
		{[]string{"exec", "--process", "/tmp/p", "id"}, []string{"/tmp/p"}},
		{[]string{"exec", "--process=/tmp/p", "id"}, []string{"/tmp/p"}},
		{[]string{"state", "id"}, nil},
	} {
		if got := specs(tt.args); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.args, got, tt.want)
		}
	}
}

func TestCapabilitiesOfAProcess(t *testing.T) {
	const status = "Name:\tsh\nCapEff:\t000001ffffffffff\nCapBnd:\t000001fffeffffff\n"
	if hasBit(status, "CapBnd", sysResourceBit) {
		t.Error("the bit that is missing was found")
	}
	if !hasBit(status, "CapEff", sysResourceBit) || !hasBit(status, "CapBnd", sysResourceBit-1) {
		t.Error("a bit that is set was not found")
	}
}
