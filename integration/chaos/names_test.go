//go:build linux

package chaos

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/a1ea6966/loggregator/integration/netns"
)

// dopplerName is what the Dopplers' addresses are found by.
const dopplerName = "dopplers.test"

// names is a DNS server that has one answer to everything.
type names struct {
	mu     sync.Mutex
	answer []netip.Addr
	asked  map[netip.Addr]int // by who asks, since the answer is this one
}

// serveNames answers at an address of this host, which all will ask from now on,
// until the test ends.
func serveNames(t *testing.T, at netip.Addr, answer ...netip.Addr) *names {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 53)))
	if err != nil {
		t.Fatal(err)
	}
	n := new(names)
	n.say(answer...)
	var serving sync.WaitGroup
	serving.Go(func() { n.serve(conn) })
	t.Cleanup(func() {
		_ = conn.Close()
		serving.Wait()
	})
	if err := netns.SetResolver(at.String(), filepath.Join(t.TempDir(), "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	return n
}

// say changes the answer.
func (n *names) say(answer ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer, n.asked = answer, make(map[netip.Addr]int)
}

// heard is how often somebody was given the answer of now.
func (n *names) heard(who netip.Addr) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[who]
}

func (n *names) serve(conn *net.UDPConn) {
	packet := make([]byte, 512)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(packet)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(packet[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		n.reply(&m, from.Addr())
		if reply, err := m.Pack(); err == nil {
			_, _ = conn.WriteToUDPAddrPort(reply, from)
		}
	}
}

// reply makes the reply of a question.
func (n *names) reply(m *dnsmessage.Message, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if m.Questions[0].Type != dnsmessage.TypeA {
		return
	}
	n.asked[to]++
	for _, addr := range n.answer {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		})
	}
}

// found lets the Dopplers be found at other addresses for as long as it lasts.
func found(at func() []netip.Addr) func(*testing.T, *world) func() {
	return func(_ *testing.T, w *world) func() {
		w.names.say(at()...)
		return func() { w.names.say(dopplerAddrs()...) }
	}
}

// followed tells whether Traffic Controllers have done as the answer says, which
// they have when they ask once more.
func followed(_ context.Context, _ *testing.T, w *world) bool {
	for c := range controllers {
		if w.names.heard(pathAddr(c, 0)) < 2 {
			return false
		}
	}
	return true
}

func dopplerAddrs() (all []netip.Addr) {
	for i := range dopplers {
		all = append(all, dopplerAddr(i))
	}
	return all
}

// withoutDoppler0 leaves one out, movedDoppler0 has it at its other address.
func withoutDoppler0() []netip.Addr { return dopplerAddrs()[1:] }
func movedDoppler0() []netip.Addr   { return append(withoutDoppler0(), otherAddr) }
