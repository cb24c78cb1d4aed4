package egress

import (
	"maps"
	"slices"

	"github.com/a1ea6966/loggregator/doppler/internal/reader"
)

// roster is a subscription that is shared by deterministic names. Each name has
// a group of its own, in which what belongs to the name is shared among the
// connections of that name. Those without a name have one too, and get nothing
// while a name is connected (protocol/01, Doppler v2 routing).
type roster struct {
	key    string // of the group of those without a name
	owners reader.Roster
	groups map[string]*group // by name; guarded by Server.mu
}

// rosterOf finds or makes the roster of a subscription. What has no name begins
// to give way to it. mu is held.
func (s *Server) rosterOf(key string) *roster {
	r := s.rosters[key]
	if r != nil {
		return r
	}
	r = &roster{key: key, groups: map[string]*group{}}
	s.rosters[key] = r
	if g := s.groups[key]; g != nil {
		r.owners.Change(0, nil, 0)
		g.mu.Lock()
		g.roster = r
		g.state.Restrict(&reader.Share{Roster: &r.owners})
		g.countsNames = true
		g.mu.Unlock()
		r.groups[""] = g
		s.listCounting()
	}
	return r
}

// reassign gives everything from now on to the names that are connected. When
// none is, it goes to those without a name, if there are any, and else stays with
// the names that linger. mu is held.
func (s *Server) reassign(r *roster) {
	now := r.owners.Names()
	var connected, lingering []string
	nameless := false
	for name, g := range r.groups {
		g.mu.Lock() // until all know of the change
		switch {
		case name == "":
			nameless = len(g.sessions) > 0
		case len(g.sessions) > 0:
			connected = append(connected, name)
		case slices.Contains(now, name):
			lingering = append(lingering, name)
		}
	}
	names := connected
	if len(names) == 0 && !nameless {
		names = lingering
	}
	slices.Sort(names)
	if now == nil {
		r.owners.Change(0, names, 0) // wherever the first one starts
	} else if !slices.Equal(now, names) {
		r.owners.Change(s.log.Head(), names, s.log.Oldest())
	}
	for _, g := range r.groups {
		g.mu.Unlock()
		g.wakeAll()
	}
}

// ended hands on what a group owned that lingered long enough, and tells another
// name what it has not delivered. mu is held.
func (s *Server) ended(g *group) {
	r := g.roster
	delete(r.groups, g.name)
	if len(r.groups) == 0 {
		delete(s.rosters, r.key)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s.reassign(r)
	if g.name == "" {
		return
	}
	n, exact := g.state.Abandon()
	heir := r.heir()
	heir.mu.Lock()
	heir.state.Inherit(n, exact)
	heir.mu.Unlock()
	heir.wakeAll()
}

// heir is the first of the names that are connected, or of all when none is.
func (r *roster) heir() (first *group) {
	open := false
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		g := r.groups[name]
		g.mu.Lock()
		connected := len(g.sessions) > 0
		g.mu.Unlock()
		if first == nil || connected && !open {
			first, open = g, connected
		}
	}
	return first
}

// startOf is where a name begins: the first one of a subscription where any
// reader would, others where they are given something.
func (s *Server) startOf(q firehoseQuery, r *roster) reader.Start {
	if r != nil && r.owners.Names() != nil {
		return reader.Start{Place: reader.PlaceHead}
	}
	return reader.StartFrom(q.cursor, s.cfg.Doppler, s.cfg.Epoch, q.origin, s.young())
}
