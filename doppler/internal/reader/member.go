package reader

import "time"

// Member is one connection of a subscription group. Its fields belong to the
// group.
type Member struct {
	acking  bool // the client acks for itself
	served  uint64
	blocked bool // its socket did not take the last grant yet
	waiting bool // its last Next gave nothing

	nextID   uint64
	sent     []sentBytes // granted, not yet in the client's socket; ascending
	out      int         // bytes in sent
	leases   []*lease    // granted and not done, oldest first; done ones linger
	progress time.Time   // last ack
	moved    bool        // acked by Sent since the last Expire

	granted uint64 // envelopes, in all
	acked   uint64
}

type sentBytes struct {
	id    uint64
	bytes int
}

// hasSent tells whether a lease is in the client's socket.
func (m *Member) hasSent(id uint64) bool { return len(m.sent) == 0 || m.sent[0].id > id }

// Acking tells whether the client itself acks.
func (m *Member) Acking() bool { return m.acking }

// Counters returns how many envelopes were granted to the member and acked by
// it.
func (m *Member) Counters() (granted, acked uint64) { return m.granted, m.acked }

// oldestOpen returns where the group was when the member was granted the oldest
// of what it has not acked, or next when there is nothing. What is lost counts
// only for a client that acks: otherwise it is under way, which the byte window
// bounds.
func (m *Member) oldestOpen(next uint64) uint64 {
	for len(m.leases) > 0 && !m.leases[0].with(m) {
		m.leases[0] = nil
		m.leases = m.leases[1:]
	}
	for _, l := range m.leases {
		if l.with(m) && (m.acking || !l.lost) {
			return l.mark
		}
	}
	return next
}
