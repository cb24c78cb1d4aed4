package egress

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// plumbing is the service plumbing.Doppler: what Loggregator's Traffic
// Controllers and older nozzles read, in the old protocol.
type plumbing struct {
	plumbingpb.UnimplementedDopplerServer
	server *Server
}

// Register adds the calls of readers to a gRPC server.
func (s *Server) Register(to grpc.ServiceRegistrar) {
	plumbingpb.RegisterDopplerServer(to, plumbing{server: s})
	loggregatorv2.RegisterEgressServer(to, v2{server: s})
}

// Subscribe sends an envelope in each message.
func (p plumbing) Subscribe(q *plumbingpb.SubscriptionRequest, calls grpc.ServerStreamingServer[plumbingpb.Response]) error {
	return p.subscribe(q, calls, plumbingpb.Doppler_Subscribe_FullMethodName, 1)
}

// BatchSubscribe sends several at a time.
func (p plumbing) BatchSubscribe(q *plumbingpb.SubscriptionRequest, calls grpc.ServerStreamingServer[plumbingpb.BatchResponse]) error {
	return p.subscribe(q, calls, plumbingpb.Doppler_BatchSubscribe_FullMethodName, oldBatch)
}

func (p plumbing) subscribe(q *plumbingpb.SubscriptionRequest, calls grpc.ServerStream, method string, batch int) error {
	app, shard := q.GetFilter().GetAppId(), q.GetShardId()
	switch {
	case len(app) > maxAppID:
		return p.server.badCall("filter.app_id has %d bytes, the limit is %d", len(app), maxAppID)
	case len(shard) > maxShardID:
		return p.server.badCall("shard_id has %d bytes, the limit is %d", len(shard), maxShardID)
	}
	framing := &oldFraming{app: app, batch: batch}
	return p.server.serveCall(calls, firehoseQuery{shardID: shard, filter: oldFilter(q.GetFilter())}, method, framing)
}

// oldFilter is what a filter of the old protocol selects. It is the filter of
// the Firehose's old framing, so that both share a group. Of an app it is what
// has an app in the old protocol; all else belongs to an app "system" there,
// which cannot be asked for here.
func oldFilter(f *plumbingpb.Filter) reader.Filter {
	logs := envelope.Mask(envelope.Log)
	metrics := envelope.AllClasses &^ envelope.NoV1 &^ logs
	both := envelope.AllClasses
	var sources []string
	if app := f.GetAppId(); app != "" {
		sources = []string{app}
		metrics = envelope.Mask(envelope.ContainerGauge)
		if isAppUUID(app) {
			metrics |= envelope.Mask(envelope.HTTPTimer, envelope.Timer)
		}
		both = logs | metrics
	}
	switch f.GetMessage().(type) {
	case *plumbingpb.Filter_Log:
		both = logs
	case *plumbingpb.Filter_Metric:
		both = metrics
	}
	return reader.Filter{{Mask: both, Sources: sources}}
}

// isAppUUID tells whether an app is written as the old protocol writes the app
// of an HTTP request, which is binary there.
func isAppUUID(app string) bool {
	if len(app) != 36 {
		return false
	}
	for i := range len(app) {
		dash, c := i == 8 || i == 13 || i == 18 || i == 23, app[i]
		if dash != (c == '-') || !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

const (
	maxAppID = 4096 // the longest source id that --max-source-id-bytes allows
	// A message of BatchSubscribe holds no more than this, unless an envelope
	// alone is larger: clients take 4 MiB.
	oldBatch      = 256
	oldBatchBytes = 1 << 20
)

// oldFraming puts envelopes in the old form. Response and BatchResponse are
// the same on the wire. It encodes while it sends, for an envelope may become
// much larger.
type oldFraming struct {
	app   string // of an app alone; empty: of all
	batch int    // most envelopes of a message
	told  uint64 // that are missed, up to now

	gaps    []*streampb.Gap
	records []byte

	encoder dropsonde.Encoder
	v1      []byte
	ends    []int
	message *callMessage
	have    int // envelopes in message
}

// Take is that of callFraming.
func (f *oldFraming) Take(gaps []*streampb.Gap, records [][]byte) {
	f.gaps, f.records = gaps, f.records[:0]
	for _, run := range records {
		f.records = append(f.records, run...)
	}
}

// Send is that of callFraming.
func (f *oldFraming) Send(send func(*callMessage) error) error {
	for _, g := range f.gaps {
		f.tell(g, time.Now().UnixNano())
		if err := f.add(send); err != nil {
			return err
		}
	}
	for env := range envelope.Walk(f.records) {
		f.v1, f.ends = f.encoder.AppendV1(f.v1[:0], f.ends[:0], env)
		if err := f.add(send); err != nil {
			return err
		}
	}
	if cap(f.v1) > keptMessage {
		f.v1 = nil
	}
	return f.flush(send)
}

// add sends the envelopes in v1, but for the last ones, which wait for more.
func (f *oldFraming) add(send func(*callMessage) error) error {
	begin := 0
	for _, end := range f.ends {
		v1 := f.v1[begin:end]
		begin = end
		if f.have == f.batch || f.have > 0 && len(f.message.bytes)+len(v1) > oldBatchBytes {
			if err := f.flush(send); err != nil {
				return err
			}
		}
		if f.message == nil {
			f.message = newMessage()
		}
		f.message.bytes = envelope.AppendRecord(f.message.bytes, v1) // field 1 as well
		f.have++
	}
	return nil
}

func (f *oldFraming) flush(send func(*callMessage) error) error {
	m := f.message
	if f.message, f.have = nil, 0; m == nil {
		return nil
	}
	return send(m)
}

// tell makes what says a gap: of an app a line, else a counter and, where
// nobody knows the number, a line too.
func (f *oldFraming) tell(g *streampb.Gap, now int64) {
	n, exact := wsframe.Missed(g)
	f.v1, f.ends = f.v1[:0], f.ends[:0]
	if !exact || f.app != "" && n > 0 {
		f.v1 = wsframe.AppendLineEvent(f.v1, g, f.app, now)
		f.ends = append(f.ends, len(f.v1))
	}
	if f.app == "" && n > 0 {
		f.told += n
		f.v1 = wsframe.AppendDroppedEvent(f.v1, n, f.told, now)
		f.ends = append(f.ends, len(f.v1))
	}
}

const (
	oldRecentLogs = 100             // as many as the old Doppler kept
	oldInstances  = 10_000          // container metrics that are looked at
	oldMetricAge  = 2 * time.Minute // older ones are of instances that are gone
	// oldAnswer bounds an answer in bytes: clients take 4 MiB.
	oldAnswer = 3 << 20
)

// RecentLogs answers with the newest log lines of an app, oldest first.
func (p plumbing) RecentLogs(ctx context.Context, q *plumbingpb.RecentLogsRequest) (*plumbingpb.RecentLogsResponse, error) {
	list, err := p.newest(ctx, q.GetAppId(), historyQuery{mask: envelope.Mask(envelope.Log), limit: oldRecentLogs})
	if err != nil {
		return nil, err
	}
	list = fit(list)
	slices.Reverse(list)
	return &plumbingpb.RecentLogsResponse{Payload: list}, nil
}

// ContainerMetrics answers with the newest metric of each instance of an app,
// newest first.
func (p plumbing) ContainerMetrics(ctx context.Context, q *plumbingpb.ContainerMetricsRequest) (*plumbingpb.ContainerMetricsResponse, error) {
	list, err := p.newest(ctx, q.GetAppId(), historyQuery{
		mask: envelope.Mask(envelope.ContainerGauge), limit: oldInstances, since: time.Now().Add(-oldMetricAge).UnixNano(),
	})
	if err != nil {
		return nil, err
	}
	seen := map[int32]bool{}
	list = slices.DeleteFunc(list, func(v1 []byte) bool {
		index, ok := dropsonde.ContainerInstance(v1)
		known := seen[index]
		seen[index] = true
		return !ok || known
	})
	return &plumbingpb.ContainerMetricsResponse{Payload: fit(list)}, nil
}

// newest reads what ring and recent store have of an app, newest first.
func (p plumbing) newest(ctx context.Context, app string, q historyQuery) ([][]byte, error) {
	s := p.server
	if s.draining.Load() {
		return nil, status.Error(codes.Unavailable, "this Doppler is stopping")
	}
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	src := s.log.Ref(app)
	defer s.log.Unref(src)
	q.to = s.log.Head()
	entries := s.readNewest(src, q).entries
	list := make([][]byte, 0, len(entries))
	var encoder dropsonde.Encoder
	for _, e := range slices.Backward(entries) {
		env, _, _ := envelope.Next(e.record)
		if v1, ends := encoder.AppendV1(nil, nil, env); len(ends) == 1 {
			list = append(list, v1)
		}
	}
	return list, nil
}

// fit returns the first of list that an answer has room for.
func fit(list [][]byte) [][]byte {
	size := 0
	for i, v1 := range list {
		if size += len(v1); size > oldAnswer {
			return list[:i]
		}
	}
	return list
}
