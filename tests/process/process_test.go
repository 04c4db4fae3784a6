package process

import (
	"os"
	"os/exec"
	"testing"
)

func TestStartTimeTellsProcessesApart(t *testing.T) {
	own, err := StartTime(os.Getpid())
	if err != nil || own == 0 {
		t.Fatalf("own: %d, %v", own, err)
	}
	if again, err := StartTime(os.Getpid()); err != nil || again != own {
		t.Errorf("the same process: %d, %v, want %d", again, err, own)
	}
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if start, err := StartTime(cmd.Process.Pid); err == nil {
		t.Errorf("a process that has ended started at %d", start)
	}
}
