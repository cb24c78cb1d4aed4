package netns

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is what befalls packets from some hosts to others.
type Fault struct {
	// From and To are the packets' addresses; empty stands for any.
	From, To []netip.Addr
	// Loss is the share of packets that are lost, 1 for all.
	Loss float64
	// Delay is how much longer packets take.
	Delay time.Duration
}

func (f *Fault) concerns(from, to netip.Addr) bool {
	return (len(f.From) == 0 || slices.Contains(f.From, from)) && (len(f.To) == 0 || slices.Contains(f.To, to))
}

// maxLate is how many packets are under way of one fault; more are lost.
const maxLate = 16 << 10

// Imposed is a fault that lasts until it is lifted.
type Imposed struct {
	fault   Fault
	network *Network
	once    sync.Once
	lifted  chan struct{}
	late    chan latePacket // never closed

	lost    atomic.Uint64
	delayed atomic.Uint64
}

// Lost is how many packets it has let vanish, Delayed how many it was late with.
func (i *Imposed) Lost() uint64 { return i.lost.Load() }

// Delayed is how many packets it was late with.
func (i *Imposed) Delayed() uint64 { return i.delayed.Load() }

// Lift ends the fault. What is under way still arrives when it is due.
func (i *Imposed) Lift() {
	i.once.Do(func() {
		i.network.change(func(all []*Imposed) []*Imposed {
			return slices.DeleteFunc(all, func(other *Imposed) bool { return other == i })
		})
		if i.lifted != nil {
			close(i.lifted)
		}
	})
}

// take tells whether it has taken care of a packet.
func (i *Imposed) take(packet []byte) bool {
	if i.fault.Loss >= 1 || i.fault.Loss > 0 && rand.Float64() < i.fault.Loss {
		i.lost.Add(1)
		return true
	}
	if i.fault.Delay == 0 {
		return false
	}
	select {
	case i.late <- latePacket{time.Now().Add(i.fault.Delay), bytes.Clone(packet)}:
		i.delayed.Add(1)
	default:
		i.lost.Add(1)
	}
	return true
}

// deliverLate delivers what is late until the fault is lifted and nothing is
// under way.
func (i *Imposed) deliverLate() {
	for {
		select {
		case p := <-i.late:
			i.wait(p)
			continue
		default:
		}
		select {
		case p := <-i.late:
			i.wait(p)
		case <-i.lifted:
			return
		}
	}
}

func (i *Imposed) wait(p latePacket) {
	timer := time.NewTimer(time.Until(p.until))
	defer timer.Stop()
	<-timer.C
	i.network.deliver(netip.AddrFrom4([4]byte(p.packet[targetAt:])), p.packet)
}
