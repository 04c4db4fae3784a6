package daemon

import (
	"log/slog"
	"strings"
	"testing"

	"tortie/felix/config"
)

// TestHostEncryptionIsRefusedByName: who asks for it is told that it is not done, as long
// as it would do anything.
func TestHostEncryptionIsRefusedByName(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  []string
		told bool
	}{
		{"WireGuard alone", []string{"FELIX_WIREGUARDENABLED=true"}, false},
		{"with hosts", []string{"FELIX_WIREGUARDENABLED=true", "FELIX_WIREGUARDHOSTENCRYPTIONENABLED=true"}, true},
		{"with hosts, IPv6", []string{"FELIX_WIREGUARDENABLEDV6=true", "FELIX_WIREGUARDHOSTENCRYPTIONENABLED=true"}, true},
		{"hosts without WireGuard", []string{"FELIX_WIREGUARDHOSTENCRYPTIONENABLED=true"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, bad := config.Resolve(config.FromEnv(tc.env))
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			f := &felix{config: newConfigFollower("node1", nil, cfg, slog.New(slog.DiscardHandler))}
			var lines []string
			for _, p := range f.hostEncryptionProblem() {
				lines = append(lines, p.Line)
			}
			if !tc.told {
				if len(lines) > 0 {
					t.Errorf("told %q", lines)
				}
				return
			}
			if len(lines) != 1 || !strings.Contains(lines[0], "wireguardHostEncryptionEnabled") || !strings.Contains(lines[0], "goes unencrypted") || strings.Contains(lines[0], "\n") {
				t.Errorf("told %q, want one line that names the field", lines)
			}
		})
	}
}
