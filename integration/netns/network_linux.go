package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// networkBits is how much of an address all hosts have in common.
const networkBits = 8

// Network is a set of hosts. Its methods may be called concurrently.
type Network struct {
	running sync.WaitGroup
	imposed atomic.Pointer[[]*Imposed]

	mu     sync.RWMutex
	hosts  []*Host
	routes map[netip.Addr]*Host
}

// New makes a network of which this process is a host with that address. A
// process has one network at a time, and must have been started by Inside.
func New(addr netip.Addr) (*Network, error) {
	if os.Getenv(insideKey) == "" {
		return nil, ErrOutside
	}
	device, err := newDevice("net0", []netip.Addr{addr})
	if err != nil {
		return nil, err
	}
	n := &Network{routes: make(map[netip.Addr]*Host)}
	n.imposed.Store(new([]*Imposed))
	n.add(&Host{addrs: []netip.Addr{addr}, device: device})
	return n, nil
}

// Host makes another host. All addresses, which must be of version 4 and share
// their first byte with all others, reach it.
func (n *Network) Host(addrs ...netip.Addr) (*Host, error) {
	h, err := newHost(addrs)
	if err != nil {
		return nil, err
	}
	n.add(h)
	return h, nil
}

func (n *Network) add(h *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts = append(n.hosts, h)
	for _, addr := range h.addrs {
		n.routes[addr] = h
	}
	n.running.Go(func() { n.read(h) })
}

// Close ends the network. Processes on its hosts have nobody to talk to then.
func (n *Network) Close() error {
	n.mu.Lock()
	var errs []error
	for _, h := range n.hosts {
		errs = append(errs, h.close())
	}
	n.mu.Unlock()
	for _, i := range *n.imposed.Load() {
		i.Lift()
	}
	n.running.Wait()
	return errors.Join(errs...)
}

// Where addresses are in a packet, RFC 791.
const headerSize, sourceAt, targetAt = 20, 12, 16

// maxPacket is the size of the largest packet there can be.
const maxPacket = 64 << 10

// read takes what a host sends, until the host is closed.
func (n *Network) read(h *Host) {
	buffer := make([]byte, maxPacket)
	for {
		size, err := h.device.Read(buffer)
		if err != nil {
			return
		}
		n.pass(buffer[:size])
	}
}

// pass takes a packet to where it wants to go, unless something befalls it.
func (n *Network) pass(packet []byte) {
	if len(packet) < headerSize || packet[0]>>4 != 4 {
		return
	}
	from := netip.AddrFrom4([4]byte(packet[sourceAt:]))
	to := netip.AddrFrom4([4]byte(packet[targetAt:]))
	for _, i := range *n.imposed.Load() {
		if i.fault.concerns(from, to) && i.take(packet) {
			return
		}
	}
	n.deliver(to, packet)
}

func (n *Network) deliver(to netip.Addr, packet []byte) {
	n.mu.RLock()
	h := n.routes[to]
	n.mu.RUnlock()
	if h != nil {
		_, _ = h.device.Write(packet) // what cannot be taken is lost, as on any wire
	}
}

// Impose lets a fault begin.
func (n *Network) Impose(f Fault) *Imposed {
	i := &Imposed{fault: f, network: n}
	if f.Delay > 0 {
		i.late = make(chan latePacket, maxLate)
		i.lifted = make(chan struct{})
		n.running.Go(i.deliverLate)
	}
	n.change(func(all []*Imposed) []*Imposed { return append(all, i) })
	return i
}

// change replaces the list of faults, of which routers read a copy.
func (n *Network) change(edit func([]*Imposed) []*Imposed) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := edit(append([]*Imposed(nil), *n.imposed.Load()...))
	n.imposed.Store(&next)
}

// String names the addresses of all hosts.
func (n *Network) String() string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return fmt.Sprint(n.routes)
}

// latePacket is a packet that is on its way until then.
type latePacket struct {
	until  time.Time
	packet []byte
}
