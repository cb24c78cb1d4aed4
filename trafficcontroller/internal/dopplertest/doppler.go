// Package dopplertest is a small Doppler for tests: a log, tail links,
// subscription groups and history as the stream contract has them, without any
// of the speed. Doppler, Link and Group are plain state machines; Server puts
// them behind a listener.
package dopplertest

import (
	"net/url"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Envelope is one entry of the log. What was evicted stays here, too, as the
// truth to compare with.
type Envelope struct {
	Offset uint64
	Source string
	Name   string // of a counter
	Class  envelope.Class
	Time   int64
	ID     string // instance id
	Raw    []byte
}

// Doppler is one epoch of a Doppler. It is not safe for concurrent use.
type Doppler struct {
	Name       string
	Epoch      uint64
	Log        []Envelope
	Oldest     uint64
	Keep       int // of the newest of each source, also if older
	MaxWatches int // 0: no limit
	PageLimit  int // envelopes of an answer in the order of time; 0: no limit
}

// Head is the next offset.
func (d *Doppler) Head() uint64 { return uint64(len(d.Log)) }

// Append takes an envelope in: a counter when name is not empty, a log
// otherwise.
func (d *Doppler) Append(source, name, id string, at int64) Envelope {
	e := &loggregatorv2.Envelope{SourceId: source, InstanceId: id, Timestamp: at}
	class := envelope.Log
	if name != "" {
		class = envelope.Counter
		e.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name, Delta: 1}}
	} else {
		e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("line " + id)}}
	}
	raw, err := proto.Marshal(e)
	if err != nil {
		raw = nil // an id that is not UTF-8; a test's own fault, and it will see it
	}
	return d.AppendRaw(Envelope{Source: source, Name: name, Class: class, Time: at, ID: id, Raw: raw})
}

// AppendEnvelope takes any envelope in.
func (d *Doppler) AppendEnvelope(e *loggregatorv2.Envelope) (Envelope, error) {
	raw, err := proto.Marshal(e)
	if err != nil {
		return Envelope{}, err
	}
	record, err := envelope.ScanEnvelope(raw, envelope.Limits{})
	if err != nil {
		return Envelope{}, err
	}
	return d.AppendRaw(Envelope{Source: e.GetSourceId(), Class: record.Class, Time: e.GetTimestamp(), ID: e.GetInstanceId(), Raw: raw}), nil
}

// AppendRaw takes an encoded envelope in and gives it its offset.
func (d *Doppler) AppendRaw(e Envelope) Envelope {
	e.Offset = d.Head()
	d.Log = append(d.Log, e)
	return e
}

// Evict lets go of everything below offset.
func (d *Doppler) Evict(offset uint64) { d.Oldest = max(d.Oldest, min(offset, d.Head())) }

// Counts are the envelopes of a source before an offset, by class.
func (d *Doppler) Counts(source string, before uint64) (c [envelope.NumClasses]uint64) {
	for _, e := range d.Log[:before] {
		if e.Source == source {
			c[e.Class]++
		}
	}
	return c
}

// Matching is the number of envelopes of a source and classes before an
// offset.
func (d *Doppler) Matching(source string, mask envelope.ClassMask, before uint64) uint64 {
	n := uint64(0)
	for class, k := range d.Counts(source, before) {
		if mask.Has(envelope.Class(class)) {
			n += k
		}
	}
	return n
}

// Hello is what the Doppler says first.
func (d *Doppler) Hello() *streampb.Hello {
	return &streampb.Hello{
		Version: stream.Version, Server: d.Name, Epoch: d.Epoch, Oldest: d.Oldest, Head: d.Head(), WindowBytes: 256 << 10,
	}
}

// Fin is what it says last.
func (d *Doppler) Fin() *streampb.Fin {
	return &streampb.Fin{Doppler: d.Name, Epoch: d.Epoch, End: d.Head()}
}

// maskOf reads which classes are asked for, as a Doppler does.
func maskOf(q url.Values) (envelope.ClassMask, error) {
	if len(q["class"]) > 0 {
		return envelope.MaskOfClasses(q["class"]...)
	}
	return envelope.MaskOf(q["type"]...)
}

// selectorsOf reads what a member asks for, as a Doppler does.
func selectorsOf(q url.Values) ([]envelope.Selector, error) {
	if len(q["selector"]) == 0 {
		s, err := envelope.SelectorOf(q)
		return []envelope.Selector{s}, err
	}
	var list []envelope.Selector
	for _, query := range q["selector"] {
		s, err := envelope.ParseSelector(query)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// History answers a read, with as many envelopes as q allows.
func (d *Doppler) History(source string, q url.Values) ([]byte, error) {
	if q.Get("order") == "time" {
		return d.byTime(source, q)
	}
	number := func(name string, otherwise uint64) uint64 {
		n, err := strconv.ParseUint(q.Get(name), 10, 64)
		if err != nil {
			return otherwise
		}
		return n
	}
	mask, err := maskOf(q)
	if err != nil {
		return nil, err
	}
	to := min(number("to", d.Head()), d.Head())
	limit := int(number("limit", 1000))
	if q.Has("from") {
		from, matched := number("from", 0), number("matched", 0)
		if number("epoch", d.Epoch) != d.Epoch {
			from, matched = 0, 0
		}
		return d.forward(source, mask, from, matched, to, limit)
	}
	return d.newest(source, mask, to, limit, int64(number("since", 0)))
}

func (d *Doppler) forward(source string, mask envelope.ClassMask, from, matched, to uint64, limit int) ([]byte, error) {
	found := d.kept(source, mask, from, to)
	next := max(from, min(d.Oldest, to))
	for ; next < to && len(found) < limit; next++ {
		if e := d.Log[next]; e.Source == source && mask.Has(e.Class) {
			found = append(found, e)
		}
	}
	b := &streampb.Batch{Position: &streampb.Position{Next: next}}
	upTo, got := d.Matching(source, mask, next), uint64(len(found))
	b.Position.Matched = upTo - got
	first := next
	if got > 0 {
		first = found[0].Offset
	}
	gap := &streampb.Gap{
		From: from, To: first, Count: upTo - got - matched, Reason: streampb.Gap_EVICTED, Doppler: d.Name, Epoch: d.Epoch,
	}
	switch {
	case next < d.Oldest:
		// A ring counts up to what it holds, no less.
		b.Position.Matched = matched
		gap.Precision, gap.Count = streampb.Gap_UNKNOWN, 0
		b.Gaps = []*streampb.Gap{gap}
	case gap.Count > 0:
		b.Gaps = []*streampb.Gap{gap}
	}
	return d.encode(b, found)
}

// kept are those of the newest Keep envelopes of a source that are no longer
// held and lie between two offsets.
func (d *Doppler) kept(source string, mask envelope.ClassMask, from, to uint64) (found []Envelope) {
	newer := 0
	for i := d.Head(); i > from && newer < d.Keep; i-- {
		e := d.Log[i-1]
		if e.Source != source || !mask.Has(e.Class) {
			continue
		}
		newer++
		if e.Offset < min(d.Oldest, to) {
			found = append(found, e)
		}
	}
	slices.Reverse(found)
	return found
}

func (d *Doppler) newest(source string, mask envelope.ClassMask, to uint64, limit int, since int64) ([]byte, error) {
	var found []Envelope
	for i := to; i > d.Oldest && len(found) < limit; i-- {
		if e := d.Log[i-1]; e.Source == source && mask.Has(e.Class) && e.Time >= since {
			found = append([]Envelope{e}, found...)
		}
	}
	b := &streampb.Batch{Position: &streampb.Position{Next: to, Matched: d.Matching(source, mask, to) - uint64(len(found))}}
	return d.encode(b, found)
}

// encode completes the position of b and appends what was found.
func (d *Doppler) encode(b *streampb.Batch, found []Envelope) ([]byte, error) {
	p := b.Position
	p.Doppler, p.Epoch, p.First, p.Count = d.Name, d.Epoch, p.Next, uint32(len(found))
	if len(found) > 0 {
		p.First = found[0].Offset
		for i, e := range found[1:] {
			p.Deltas = append(p.Deltas, uint32(e.Offset-found[i].Offset))
		}
	}
	msg, err := stream.AppendBatchMeta(nil, b)
	for _, e := range found {
		msg = envelope.AppendRecord(msg, e.Raw)
	}
	return msg, err
}
