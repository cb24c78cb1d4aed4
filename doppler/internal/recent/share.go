package recent

// shares orders sources by how many blocks they hold: a list for each number.
// Every change is by little, so finding the source with most is cheap.
type shares struct {
	lists []list // by number of blocks
	most  int    // highest list that may have a member
}

// list is doubly linked; the first has been in it longest.
type list struct{ first, last *source }

// add puts a source at the end of the list it belongs to.
func (s *shares) add(src *source) {
	for len(s.lists) <= src.blocks {
		s.lists = append(s.lists, list{})
	}
	s.most = max(s.most, src.blocks)
	l := &s.lists[src.blocks]
	src.listed = src.blocks
	src.before, src.after = l.last, nil
	if l.last != nil {
		l.last.after = src
	} else {
		l.first = src
	}
	l.last = src
}

func (s *shares) remove(src *source) {
	l := &s.lists[src.listed]
	if src.before != nil {
		src.before.after = src.after
	} else {
		l.first = src.after
	}
	if src.after != nil {
		src.after.before = src.before
	} else {
		l.last = src.before
	}
	src.before, src.after = nil, nil
}

// moved puts a source where it belongs after its blocks have changed.
func (s *shares) moved(src *source) {
	if src.listed != src.blocks {
		s.remove(src)
		s.add(src)
	}
}

// largest returns a source with most blocks, of several the one that has been
// so longest; nil when no source holds any.
func (s *shares) largest() *source {
	for ; s.most > 0; s.most-- {
		if first := s.lists[s.most].first; first != nil {
			return first
		}
	}
	return nil
}
