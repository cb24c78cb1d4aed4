//go:build unix

package cli

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// killAll has the end of cmd's context end all that it has started, too: who
// kills a shell only does not stop what runs in it.
func killAll(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}
