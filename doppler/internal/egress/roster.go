package egress

import (
	"maps"
	"slices"

	"github.com/a1ea6966/loggregator/doppler/internal/reader"
)

// roster is a subscription that is shared by deterministic names. Each name has
// a group of its own, in which what belongs to the name is shared among the
// connections of that name.
type roster struct {
	key    string
	owners reader.Roster
	groups map[string]*group // by name; guarded by Server.mu
}

// rosterOf finds or makes the roster of a subscription. mu is held.
func (s *Server) rosterOf(key string) *roster {
	r := s.rosters[key]
	if r == nil {
		r = &roster{key: key, groups: map[string]*group{}}
		s.rosters[key] = r
	}
	return r
}

// reassign gives everything from now on to the names that are connected. When
// none is, those that linger keep it. mu is held.
func (s *Server) reassign(r *roster) {
	var connected, lingering []string
	for name, g := range r.groups {
		g.mu.Lock() // until all know of the change
		if len(g.sessions) > 0 {
			connected = append(connected, name)
		} else if slices.Contains(r.owners.Names(), name) {
			lingering = append(lingering, name)
		}
	}
	names, now := connected, r.owners.Names()
	if len(names) == 0 {
		names = lingering
	}
	slices.Sort(names)
	if !slices.Equal(now, names) {
		from := s.log.Head()
		if now == nil {
			from = 0 // wherever the first one starts
		}
		r.owners.Change(from, names, s.log.Oldest())
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
