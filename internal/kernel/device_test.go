package kernel_test

import (
	"errors"
	"testing"

	"tortie/internal/kernel"
	"tortie/internal/kernel/kerneltest"
)

// TestDevicesOfAKindThatNeedsNoSettings are made, and found again; a name is given once.
func TestDevicesOfAKindThatNeedsNoSettings(t *testing.T) {
	kerneltest.Require(t, kerneltest.Dummy, kerneltest.Wireguard)
	h := kerneltest.New(t)
	for _, kind := range []string{"dummy", "wireguard"} {
		made, err := h.CreateDevice("test-"+kind, kind)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := h.LinkByName(made.Name); err != nil || found.Index != made.Index {
			t.Errorf("%s: %v, %v; made %v", kind, found, err, made)
		}
		if _, err := h.CreateDevice(made.Name, kind); !errors.Is(err, kernel.ErrExists) {
			t.Errorf("%s, a second time: %v", kind, err)
		}
	}
	if _, err := h.CreateDevice("test", "no-such-kind"); !errors.Is(err, kernel.ErrNotSupported) {
		t.Errorf("a kind that nobody knows: %v", err)
	}
}
