package ring

// EvictAhead evicts segments until one is free for the next append. The
// Doppler's waker calls it, so that appends rarely have to evict themselves.
// It may run concurrently with everything.
func (r *Ring) EvictAhead() {
	for {
		r.dirMu.Lock()
		room := r.used+segmentBytes(r.dataBytes, r.indexLen) <= r.cfg.Bytes
		enough := len(r.free) > 0 || room || len(r.live) < 3
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
// there is none. appending says that the caller holds appendMu. Lock order:
// appendMu, evictMu, statMu, dirMu.
func (r *Ring) evictOldest(appending bool) bool {
	if !appending {
		r.appendMu.Lock()
	}
	r.evictMu.Lock()
	defer r.evictMu.Unlock()
	seg := r.evictable(appending)
	if seg != nil {
		r.touch(seg)
	}
	if !appending {
		r.appendMu.Unlock()
	}
	if seg == nil {
		return false
	}
	c := Chunk{ring: r, seg: seg, First: seg.first, n: int(seg.published.Load())}
	if r.cfg.BeforeEvict != nil {
		r.cfg.BeforeEvict(c)
	}
	r.offer(c)
	if r.cfg.AfterOffer != nil {
		r.cfg.AfterOffer()
	}
	r.retire(seg, c.n)
	return true
}

// evictable returns the oldest segment that can go. The last one is the active
// one; only the appender, which is about to replace it, may evict that too.
func (r *Ring) evictable(appending bool) *segment {
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	if len(r.live) == 0 || len(r.live) == 1 && !appending {
		return nil
	}
	return r.live[0]
}

// touch finds the sources of seg and what they have appended so far. appendMu
// and evictMu are held: appends count without atomic operations, which would
// cost each of them as much as its copy, and wait here instead.
func (r *Ring) touch(seg *segment) {
	for i := range seg.published.Load() {
		src := r.sources.byNumber[seg.index[i].source]
		if !src.mark {
			src.mark = true
			src.newest = src.appended
			r.touched = append(r.touched, src)
		}
	}
	// Elements change only while no held record names them.
	r.naming = r.sources.byNumber
}

// offer hands every envelope of c to OnEvict and counts it as offered.
// evictMu is held.
func (r *Ring) offer(c Chunk) {
	for i := range c.n {
		ix := &c.seg.index[i]
		src := r.naming[ix.source]
		ordinal := src.offered[ix.class]
		newer := src.newest[ix.class] - ordinal - 1
		if r.cfg.OnEvict != nil && (r.cfg.OfferNewest == nil || newer < r.cfg.OfferNewest[ix.class]) {
			r.cfg.OnEvict(Evicted{
				Source: src.id, Class: ix.class, Offset: c.First + uint64(i), Ordinal: ordinal,
				Newer: newer, Env: content(c.Bytes(i, i+1)),
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
		// It may have got more since; forgetIdle looks again.
		if src.evicted == src.newest {
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
	if len(seg.data) != r.dataBytes || r.used > r.cfg.Bytes {
		r.drop(seg)
		return
	}
	r.free = append(r.free, seg)
}
