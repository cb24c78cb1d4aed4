package ring

// EvictAhead evicts segments until one is free for the next append. The
// Doppler's waker calls it, so that appends rarely have to evict themselves.
// It may run concurrently with everything.
func (r *Ring) EvictAhead() {
	for {
		r.dirMu.Lock()
		enough := len(r.free) > 0 || r.made < r.budgetSegments() || len(r.live) < 3
		r.dirMu.Unlock()
		if enough || !r.evictOldest(false) {
			break
		}
	}
	r.statMu.Lock()
	crowded := len(r.idle) > r.cfg.MaxIdleSources
	r.statMu.Unlock()
	if crowded {
		r.forgetIdle()
	}
}

// evictOldest lets go of the oldest sealed segment. It reports false when
// there is none. Lock order: appendMu, evictMu, statMu, dirMu.
func (r *Ring) evictOldest(appending bool) bool {
	r.evictMu.Lock()
	defer r.evictMu.Unlock()
	r.dirMu.Lock()
	// The last segment is the active one; only the appender, which is about
	// to replace it, may evict that too.
	if len(r.live) == 0 || len(r.live) == 1 && !appending {
		r.dirMu.Unlock()
		return false
	}
	seg := r.live[0]
	r.dirMu.Unlock()
	c := Chunk{ring: r, seg: seg, First: seg.first, n: int(seg.published.Load())}
	if r.cfg.BeforeEvict != nil {
		r.cfg.BeforeEvict(c)
	}
	r.offer(c)
	r.retire(seg, c.n)
	return true
}

// offer hands every envelope of c to OnEvict and counts it as offered.
// evictMu is held.
func (r *Ring) offer(c Chunk) {
	sources := *r.sources.published.Load()
	for i := range c.n {
		ix := &c.seg.index[i]
		src := sources[ix.source]
		if !src.mark {
			src.mark = true
			r.touched = append(r.touched, src)
		}
		ordinal := src.offered[ix.class]
		if r.cfg.OnEvict != nil {
			r.cfg.OnEvict(Evicted{
				Source: src.id, Class: ix.class, Offset: c.First + uint64(i), Ordinal: ordinal,
				Newer: src.appended[ix.class].Load() - ordinal - 1,
				Env:   content(c.Bytes(i, i+1)),
			})
		}
		src.offered[ix.class]++
		r.offered[ix.class]++
	}
}

// retire makes the eviction of seg visible: counters, oldest offset and
// directory change together. evictMu is held.
func (r *Ring) retire(seg *segment, n int) {
	r.statMu.Lock()
	defer r.statMu.Unlock()
	for i, src := range r.touched {
		src.mark = false
		src.evicted = src.offered
		if src.evicted == src.counts() {
			r.queueIdle(src)
		}
		r.touched[i] = nil
	}
	r.touched = r.touched[:0]
	r.evicted = r.offered
	r.oldest.Store(seg.first + uint64(n))
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	copy(r.live, r.live[1:])
	r.live[len(r.live)-1] = nil
	r.live = r.live[:len(r.live)-1]
	seg.retired = true
	if seg.pins > 0 {
		r.zombies++
		return
	}
	r.recycle(seg)
}

// recycle makes a retired segment that nobody reads free. dirMu is held.
func (r *Ring) recycle(seg *segment) {
	switch {
	case seg.oversize:
		r.extra -= int64(len(seg.data))
		seg.unmap()
	case r.made > r.budgetSegments():
		r.made--
		seg.unmap()
	default:
		r.free = append(r.free, seg)
	}
}
