package gateway

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// maxBatch is how many envelopes an event holds (protocol/04).
const maxBatch = 100

// NewEncoder returns what turns a batch into events. It is used by one
// goroutine at a time. What a client misses it is told as its old gateway did:
// with a counter "dropped", which nozzles raise an alarm for.
func NewEncoder() func(dst []byte, gaps []*streampb.Gap, records []byte) []byte {
	return func(dst []byte, gaps []*streampb.Gap, records []byte) []byte {
		batch := &loggregatorv2.EnvelopeBatch{}
		for _, g := range gaps {
			batch.Batch = append(batch.Batch, wsframe.DroppedEnvelope(g, time.Now().UnixNano()))
		}
		for env := range envelope.Walk(records) {
			if len(batch.Batch) >= maxBatch {
				dst = appendEvent(dst, batch)
				batch.Batch = batch.Batch[:0]
			}
			e := &loggregatorv2.Envelope{}
			if err := proto.Unmarshal(env, e); err == nil { // a Doppler has checked it
				preferTags(e)
				batch.Batch = append(batch.Batch, e)
			}
		}
		if len(batch.Batch) > 0 {
			dst = appendEvent(dst, batch)
		}
		return dst
	}
}

// appendEvent appends a batch; one that cannot be encoded is left out.
func appendEvent(dst []byte, batch *loggregatorv2.EnvelopeBatch) []byte {
	at := len(dst)
	dst = append(dst, `data: {"batch":[`...)
	for i, e := range batch.GetBatch() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = AppendJSON(dst, e); err != nil {
			return dst[:at] // a Doppler has checked it
		}
	}
	return append(dst, "]}\n\n"...)
}

// preferTags moves deprecated tags over the tags (protocol/01, Tags: what RLP
// does with use_preferred_tags, which a gateway always asks for).
func preferTags(e *loggregatorv2.Envelope) {
	if len(e.GetDeprecatedTags()) == 0 {
		return
	}
	if e.Tags == nil {
		e.Tags = map[string]string{}
	}
	for name, v := range e.GetDeprecatedTags() {
		switch d := v.GetData().(type) {
		case *loggregatorv2.Value_Text:
			e.Tags[name] = d.Text
		case *loggregatorv2.Value_Integer:
			e.Tags[name] = fmt.Sprint(d.Integer)
		case *loggregatorv2.Value_Decimal:
			e.Tags[name] = fmt.Sprint(d.Decimal)
		default:
			e.Tags[name] = ""
		}
	}
	e.DeprecatedTags = nil
}
