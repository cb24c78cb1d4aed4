package egress

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
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
