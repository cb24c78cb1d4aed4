package relay

import "github.com/a1ea6966/loggregator/api/stream"

// debt is what a member owes its Doppler on one connection: Sent, for what is
// in the client's socket. It is put together, for a message costs more than the
// envelopes it is about. It is a plain state machine.
type debt struct {
	lease uint64 // 0: nothing is owed
	bytes int    // since Sent was said
}

// add notes that a batch is in the client's socket.
func (d *debt) add(lease uint64, bytes int) {
	d.lease = lease
	d.bytes += bytes
}

// due tells whether it is time to pay: well before the Doppler has to wait.
func (d *debt) due(window int) bool { return d.lease != 0 && d.bytes >= window/4 }

// pay appends the Sent to dst, and nothing when nothing is owed.
func (d *debt) pay(dst []byte) []byte {
	if d.lease != 0 {
		dst = stream.AppendSent(dst, d.lease)
	}
	d.lease, d.bytes = 0, 0
	return dst
}
