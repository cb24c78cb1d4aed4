package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inside runs run in a network of its own, in which there is nothing but
// loopback, and with mounts of its own. For that it starts this program once
// more, with the same arguments, and returns its exit code: to be called first
// in main or TestMain. Where no such network can be had it calls run as it is,
// and New will tell why.
func Inside(run func() int) int {
	if os.Getenv(insideKey) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return run()
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideKey+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
	}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	err := cmd.Start()
	if err != nil {
		return run()
	}
	var failed *exec.ExitError
	if err = cmd.Wait(); err != nil && !errors.As(err, &failed) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	return 1
}

// settle makes a new namespace fit to live in.
func settle() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	return loopback()
}

// SetResolver makes the DNS server at ip the one that this process and those
// it starts ask. conf is a file to use, which has to stay.
func SetResolver(ip, conf string) error {
	if os.Getenv(insideKey) == "" {
		return ErrOutside
	}
	if err := os.WriteFile(conf, []byte("nameserver "+ip+"\noptions timeout:1 attempts:1\n"), 0o600); err != nil {
		return fmt.Errorf("set resolver: %w", err)
	}
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("set resolver: %w", err)
	}
	return nil
}
