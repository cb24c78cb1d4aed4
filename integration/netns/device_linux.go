package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// mtu of every host. Small, so that losing one packet of a hundred is felt.
	mtu = 1500
	// queueLength is how many packets wait for the router at most.
	queueLength = 4096
)

// loopback brings lo up in the namespace of this thread.
func loopback() error {
	return configure(func(s int) error { return up(s, "lo") })
}

// newDevice makes a TUN device in the namespace of this thread that has the
// addresses, and from which all others are reached.
func newDevice(name string, addrs []netip.Addr) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	err = attach(fd, name)
	if err == nil {
		err = configure(func(s int) error { return address(s, name, addrs) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

func attach(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}

// configure calls do with a socket to ask for changes of devices by.
func configure(do func(socket int) error) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("configure network: %w", err)
	}
	defer func() { _ = unix.Close(s) }() // nothing was written
	return do(s)
}

// address gives a device its addresses: the first one with the whole network
// behind it, the others beside it.
func address(s int, device string, addrs []netip.Addr) error {
	for i, addr := range addrs {
		label, bits := device, networkBits
		if i > 0 {
			label, bits = fmt.Sprintf("%s:%d", device, i), 32
		}
		if err := ask(s, label, unix.SIOCSIFADDR, addr); err != nil {
			return fmt.Errorf("address %v: %w", addr, err)
		}
		if err := ask(s, label, unix.SIOCSIFNETMASK, mask(bits)); err != nil {
			return fmt.Errorf("netmask of %v: %w", addr, err)
		}
	}
	for request, value := range map[uint]uint32{unix.SIOCSIFMTU: mtu, unix.SIOCSIFTXQLEN: queueLength} {
		req, err := unix.NewIfreq(device)
		if err != nil {
			return err
		}
		req.SetUint32(value)
		if err := unix.IoctlIfreq(s, request, req); err != nil {
			return fmt.Errorf("set %d: %w", value, err)
		}
	}
	return up(s, device)
}

func mask(bits int) netip.Addr {
	m := ^uint32(0) << (32 - bits)
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)})
}

func ask(s int, device string, request uint, addr netip.Addr) error {
	req, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	ip := addr.As4()
	if err := req.SetInet4Addr(ip[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(s, request, req)
}

func up(s int, device string) error {
	req, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring %s up: %w", device, err)
	}
	return nil
}
