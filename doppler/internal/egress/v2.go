package egress

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// v2 is the service loggregator.v2.Egress: what Reverse Log Proxies and v2
// clients read.
type v2 struct {
	loggregatorv2.UnimplementedEgressServer
	server *Server
}

// Receiver sends an envelope in each message. Loggregator's Dopplers do not
// have it.
func (e v2) Receiver(q *loggregatorv2.EgressRequest, calls grpc.ServerStreamingServer[loggregatorv2.Envelope]) error {
	return e.subscribe(q, calls, loggregatorv2.Egress_Receiver_FullMethodName, &v2Framing{single: true})
}

// BatchedReceiver sends several at a time.
func (e v2) BatchedReceiver(q *loggregatorv2.EgressBatchRequest, calls grpc.ServerStreamingServer[loggregatorv2.EnvelopeBatch]) error {
	return e.subscribe(q, calls, loggregatorv2.Egress_BatchedReceiver_FullMethodName, &v2Framing{})
}

// v2Request is what both requests have.
type v2Request interface {
	GetShardId() string
	GetLegacySelector() *loggregatorv2.Selector
	GetSelectors() []*loggregatorv2.Selector
	GetDeterministicName() string
}

func (e v2) subscribe(q v2Request, calls grpc.ServerStream, method string, framing *v2Framing) error {
	if n := len(q.GetShardId()); n > maxShardID {
		return e.server.badCall("shard_id has %d bytes, the limit is %d", n, maxShardID)
	}
	if n := len(q.GetDeterministicName()); n > maxShardID {
		return e.server.badCall("deterministic_name has %d bytes, the limit is %d", n, maxShardID)
	}
	filter, err := v2Filter(q)
	if err != nil {
		return e.server.badCall("%v", err)
	}
	return e.server.serveCall(calls, firehoseQuery{shardID: q.GetShardId(), name: q.GetDeterministicName(), filter: filter}, method, framing)
}

// v2Filter is what a request selects. Selectors win over the legacy one; one
// without a message is passed over, and nothing is selected when there is no
// other (protocol/01).
func v2Filter(q v2Request) (reader.Filter, error) {
	list := q.GetSelectors()
	if len(list) == 0 && q.GetLegacySelector() != nil {
		list = []*loggregatorv2.Selector{q.GetLegacySelector()}
	}
	if len(list) > maxSelectors {
		return nil, fmt.Errorf("%d selectors, the limit is %d", len(list), maxSelectors)
	}
	filter, names := make(reader.Filter, 0, len(list)), 0
	for _, s := range list {
		selector, ok := v2Selector(s)
		if names += len(selector.Names); names > maxSelectors {
			return nil, fmt.Errorf("more than %d names in selectors, which is the limit", maxSelectors)
		}
		if ok {
			filter = append(filter, selector)
		}
	}
	return filter, nil
}

// v2Selector is what one selector selects. Names of gauges have to be those of
// all its metrics.
func v2Selector(s *loggregatorv2.Selector) (selector envelope.Selector, ok bool) {
	if id := s.GetSourceId(); id != "" {
		selector.Sources = []string{id}
	}
	var kind string
	switch m := s.GetMessage().(type) {
	case *loggregatorv2.Selector_Log:
		kind = "log"
	case *loggregatorv2.Selector_Counter:
		kind = "counter"
		if name := m.Counter.GetName(); name != "" {
			selector.Names = []string{name}
		}
	case *loggregatorv2.Selector_Gauge:
		kind = "gauge"
		selector.Names = m.Gauge.GetNames()
		selector.Exact = len(selector.Names) > 0
	case *loggregatorv2.Selector_Timer:
		kind = "timer"
	case *loggregatorv2.Selector_Event:
		kind = "event"
	default:
		return selector, false
	}
	mask, err := envelope.MaskOf(kind)
	selector.Mask = mask
	return selector, err == nil
}

// v2BatchBytes bounds a message of BatchedReceiver, unless an envelope alone is
// larger: clients take 4 MiB. Of envelopes it holds what is granted at a time.
const v2BatchBytes = 1 << 20

// v2Framing sends what the ring holds as it is.
type v2Framing struct {
	single   bool // an envelope in each message
	messages []*callMessage
}

// Take is that of callFraming.
func (f *v2Framing) Take(gaps []*streampb.Gap, records [][]byte) {
	for _, g := range gaps {
		env, err := proto.Marshal(wsframe.DroppedEnvelope(g, time.Now().UnixNano()))
		if err == nil { // it is UTF-8: so is the name of this Doppler
			f.add(envelope.AppendRecord(nil, env))
		}
	}
	for _, run := range records {
		if !f.single && len(run) <= v2BatchBytes {
			f.add(run)
			continue
		}
		for env := range envelope.Walk(run) {
			f.add(envelope.AppendRecord(nil, env))
		}
	}
}

// add adds records, which go into the same message.
func (f *v2Framing) add(records []byte) {
	last := len(f.messages) - 1
	if last < 0 || f.single || len(f.messages[last].bytes)+len(records) > v2BatchBytes {
		f.messages = append(f.messages, newMessage())
		last++
	}
	if f.single {
		records, _, _ = envelope.Next(records)
	}
	m := f.messages[last]
	m.bytes = append(m.bytes, records...)
}

// Send is that of callFraming.
func (f *v2Framing) Send(send func(*callMessage) error) error {
	defer func() { f.messages = f.messages[:0] }()
	for _, m := range f.messages {
		if err := send(m); err != nil {
			return err
		}
	}
	return nil
}
