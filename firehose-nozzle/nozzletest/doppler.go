package nozzletest

import (
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Doppler is one node of a Server. All methods may be called concurrently.
type Doppler struct {
	server *Server
	name   string

	// guarded by the server's mu
	epoch *epoch
}

// epoch is one life of a Doppler.
type epoch struct {
	number uint64
	fin    bool
	log    []entry
	next   uint64 // offset
}

// entry is an envelope or a gap.
type entry struct {
	offset uint64
	env    []byte
	scan   envelope.Record
	gap    *streampb.Gap
}

// Push lets the Doppler take in envelopes. As in a real one, those that are no
// valid protobuf (because of text that is no UTF-8) are left out.
func (d *Doppler) Push(envelopes ...*loggregatorv2.Envelope) {
	encoded := make([][]byte, 0, len(envelopes))
	for _, e := range envelopes {
		if b, err := proto.Marshal(e); err == nil {
			encoded = append(encoded, b)
		}
	}
	d.PushEncoded(encoded...)
}

// PushEncoded is Push for encoded envelopes, which become the server's.
func (d *Doppler) PushEncoded(envelopes ...[]byte) {
	d.server.change(func() {
		e := d.epoch
		for _, b := range envelopes {
			scan, err := envelope.ScanEnvelope(b, envelope.Limits{MaxEnvelope: 10 << 20, MaxSourceID: 4 << 10})
			if err != nil {
				continue
			}
			e.log = append(e.log, entry{offset: e.next, env: b, scan: scan})
			e.next++
		}
	})
}

// Gap lets the Doppler lose count envelopes, and say so.
func (d *Doppler) Gap(count uint64, reason streampb.Gap_Reason) {
	d.server.change(func() {
		e := d.epoch
		e.log = append(e.log, entry{offset: e.next, gap: &streampb.Gap{
			From: e.next, To: e.next + count, Count: count, Reason: reason, Doppler: d.name, Epoch: e.number,
		}})
		e.next += count
	})
}

// GapUnknown lets the Doppler lose it does not know how many envelopes, and
// say so.
func (d *Doppler) GapUnknown(reason streampb.Gap_Reason) {
	d.server.change(func() {
		d.epoch.log = append(d.epoch.log, entry{offset: d.epoch.next, gap: d.unknown(reason)})
	})
}

// unknown is a gap of unknown size.
func (d *Doppler) unknown(reason streampb.Gap_Reason) *streampb.Gap {
	return &streampb.Gap{Precision: streampb.Gap_UNKNOWN, Reason: reason, Doppler: d.name, Epoch: d.epoch.number}
}

// Fin ends the epoch as a Doppler does that is stopped: once everything is
// delivered, it says goodbye.
func (d *Doppler) Fin() { d.server.change(func() { d.epoch.fin = true }) }

// Restart begins the next epoch. Unless Fin came before, what was not
// delivered is lost, and readers that knew the old epoch are told that
// something may be.
func (d *Doppler) Restart() {
	d.server.change(func() {
		d.epoch = &epoch{number: d.epoch.number + 1}
		for _, g := range d.server.groups {
			g.forget(d.name)
		}
	})
}

// Epoch returns the epoch.
func (d *Doppler) Epoch() uint64 {
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	return d.epoch.number
}
