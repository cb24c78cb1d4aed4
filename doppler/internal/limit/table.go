package limit

// bucket is what one source may have. A source without a bucket is one whose
// bucket is full.
type bucket struct {
	id     string
	level  int64 // parts of an envelope, as of at
	at     int64
	untold uint64 // left out and not told yet
}

// part is what an envelope is of the unit of buckets: with times in nanoseconds
// and rates per second everything is exact in integers.
const part = 1_000_000_000

// table holds the buckets of sources, no more than most of them.
type table struct {
	// static
	most   int
	rate   int64
	full   int64
	refill int64 // nanoseconds from empty to full, rounded up

	buckets []bucket
	byID    map[string]int32
	hand    int // after it is looked for one to forget
}

// looks bounds what making room may cost.
const looks = 8

func newTable(cfg Config, most int) table {
	t := table{most: most, rate: int64(cfg.Rate), full: int64(cfg.Burst) * part, byID: make(map[string]int32)}
	t.refill = (t.full + t.rate - 1) / t.rate
	return t
}

// find returns the place of a source's bucket, and makes one, full, if need be:
// unless all places it looks at are of sources that have to be told something.
func (t *table) find(id []byte, now int64) (at int32, ok bool) {
	if at, ok = t.byID[string(id)]; ok {
		return at, true
	}
	if len(t.buckets) < t.most {
		at = int32(len(t.buckets))
		t.buckets = append(t.buckets, bucket{})
	} else {
		if at, ok = t.room(now); !ok {
			return 0, false
		}
		delete(t.byID, t.buckets[at].id)
	}
	b := &t.buckets[at]
	*b = bucket{id: string(id), level: t.full, at: now}
	t.byID[b.id] = at
	return at, true
}

// room finds a bucket to forget: a full one, with which nothing is lost, or
// else the fullest it meets, which is not that of a loud source.
func (t *table) room(now int64) (best int32, ok bool) {
	most := int64(-1)
	for range min(looks, len(t.buckets)) {
		t.hand = (t.hand + 1) % len(t.buckets)
		b := &t.buckets[t.hand]
		if b.untold > 0 {
			continue
		}
		if level := t.level(b, now); level > most {
			best, most = int32(t.hand), level
		}
		if most == t.full {
			break
		}
	}
	return best, most >= 0
}

// level is what is in a bucket at now.
func (t *table) level(b *bucket, now int64) int64 {
	passed := now - b.at
	switch {
	case passed <= 0: // of a message whose clock was read before another's
		return b.level
	case passed >= t.refill:
		return t.full
	}
	return min(t.full, b.level+passed*t.rate)
}

// draw takes what n envelopes need, or for as many as there is enough, and
// returns how many.
func (t *table) draw(b *bucket, now int64, n int) int {
	b.level, b.at = t.level(b, now), max(b.at, now)
	in := min(int64(n), b.level/part)
	b.level -= in * part
	return int(in)
}
