package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Host is a machine of a network, in which processes can be started.
type Host struct {
	addrs  []netip.Addr
	device *os.File
	space  *os.File // its network namespace; nil for that of this process
}

// newHost makes the namespace of a host.
func newHost(addrs []netip.Addr) (*Host, error) {
	h := &Host{addrs: addrs}
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		var err error
		if h.space, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		if err := loopback(); err != nil {
			return err
		}
		h.device, err = newDevice("net0", addrs)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make host %v: %w", addrs, err), h.close())
	}
	return h, nil
}

// Start starts a command on the host.
func (h *Host) Start(cmd *exec.Cmd) error {
	return elsewhere(h.enter, cmd.Start)
}

func (h *Host) enter() error { return unix.Setns(int(h.space.Fd()), unix.CLONE_NEWNET) }

// Addr is its first address, which is the one others see it connect from.
func (h *Host) Addr() netip.Addr { return h.addrs[0] }

func (h *Host) close() error {
	var err error
	if h.device != nil {
		err = h.device.Close()
	}
	if h.space != nil {
		err = errors.Join(err, h.space.Close())
	}
	return err
}

// elsewhere calls do on a thread that enter has taken into another network
// namespace. A thread that does not find back is not used again, which would
// kill the processes started by it.
func elsewhere(enter, do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		if err = enter(); err == nil {
			err = do()
		}
		back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		}
		result <- errors.Join(err, back)
	}()
	return <-result
}
