package edge

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
)

// limits counts the open streams of users and addresses.
type limits struct {
	mu    sync.Mutex
	users map[string]int
	addrs map[netip.Prefix]int
}

// Take counts a new stream of a user and of the address that r comes from, until
// release is called. A user that is not known has no limit of its own. why says
// which limit is reached, in words for the client; then there is no release.
func (e *Edge) Take(r *http.Request, user string) (release func(), why string) {
	addr := block(From(r).Addr)
	l := &e.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	if limit := e.cfg.MaxPerUser; limit > 0 && user != "" && l.users[user] >= limit {
		e.refuse(User)
		return nil, fmt.Sprintf("too many streams of this user: the limit is %d", limit)
	}
	if limit := e.cfg.MaxPerAddress; limit > 0 && addr.IsValid() && l.addrs[addr] >= limit {
		e.refuse(Address)
		return nil, fmt.Sprintf("too many streams from %s: the limit is %d", addr, limit)
	}
	l.add(user, addr, 1)
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.add(user, addr, -1)
	}), ""
}

// add is called with mu held. What is 0 takes no room.
func (l *limits) add(user string, addr netip.Prefix, n int) {
	if l.users == nil {
		l.users, l.addrs = map[string]int{}, map[netip.Prefix]int{}
	}
	if l.users[user] += n; l.users[user] == 0 {
		delete(l.users, user)
	}
	if l.addrs[addr] += n; l.addrs[addr] == 0 {
		delete(l.addrs, addr)
	}
}

// block is what one party is likely to have of addresses: a network of 64 bits
// of IPv6, one address of IPv4.
func block(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
