package egress

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of that name
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// codec sends what is encoded, as that of the listener does.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(interface{ Encoded() mem.BufferSlice }); ok {
		return e.Encoded(), nil
	}
	return c.CodecV2.Marshal(v)
}

// old returns a client of the old service.
func (d *doppler) old() plumbingpb.DopplerClient { return plumbingpb.NewDopplerClient(d.calls()) }

// calls connects to the Doppler's gRPC.
func (d *doppler) calls() *grpc.ClientConn {
	d.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")}))
	d.server.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			d.t.Error(err)
		}
	})
	return conn
}

// add appends whole envelopes.
func (d *doppler) add(list ...*loggregatorv2.Envelope) {
	d.t.Helper()
	msg, err := proto.Marshal(&loggregatorv2.EnvelopeBatch{Batch: list})
	if err != nil {
		d.t.Fatal(err)
	}
	recs, dropped := envelope.ScanBatch(msg, envelope.Limits{}, nil)
	if len(recs) != len(list) || dropped != (envelope.Dropped{}) {
		d.t.Fatalf("scan: %d records, dropped %+v", len(recs), dropped)
	}
	d.log.Append(msg, recs)
}

func container(instance string, cpu float64, at time.Time) *loggregatorv2.Envelope {
	metrics := map[string]*loggregatorv2.GaugeValue{"cpu": {Unit: "percentage", Value: cpu}}
	for _, name := range []string{"memory", "disk", "memory_quota", "disk_quota"} {
		metrics[name] = &loggregatorv2.GaugeValue{Unit: "bytes", Value: 1}
	}
	return &loggregatorv2.Envelope{
		SourceId: "app", InstanceId: instance, Timestamp: at.UnixNano(),
		Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}},
	}
}

// v1Of is what the transcoder makes of an envelope.
func v1Of(t *testing.T, e *loggregatorv2.Envelope) []byte {
	t.Helper()
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var encoder dropsonde.Encoder
	v1, ends := encoder.AppendV1(nil, nil, b)
	if len(ends) != 1 {
		t.Fatalf("%d envelopes of %v", len(ends), e)
	}
	return v1
}

func TestOldRecentLogs(t *testing.T) {
	d := start(t, 4<<20, nil)
	defer d.stop()
	d.emit("other", 10)
	d.emit("app", 250)
	d.add(container("0", 1, time.Now()))
	resp, err := d.old().RecentLogs(t.Context(), &plumbingpb.RecentLogsRequest{AppId: "app"})
	if err != nil || len(resp.GetPayload()) != 100 {
		t.Fatalf("%d lines, %v", len(resp.GetPayload()), err)
	}
	for i, v1 := range resp.GetPayload() {
		if !bytes.Contains(v1, fmt.Appendf(nil, "line %d", 160+i)) {
			t.Errorf("line %d is %q", i, v1)
		}
	}
	resp, err = d.old().RecentLogs(t.Context(), &plumbingpb.RecentLogsRequest{AppId: "nobody"})
	if err != nil || len(resp.GetPayload()) != 0 {
		t.Errorf("%v, %v", resp, err)
	}
}

// An answer fits into what a client takes, the newest lines first.
func TestOldRecentLogsAreBounded(t *testing.T) {
	d := start(t, 32<<20, nil)
	defer d.stop()
	for i := range 10 {
		line := fmt.Sprint(i, strings.Repeat("x", 500<<10))
		d.add(&loggregatorv2.Envelope{SourceId: "app", Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(line)}}})
	}
	resp, err := d.old().RecentLogs(t.Context(), &plumbingpb.RecentLogsRequest{AppId: "app"})
	if err != nil {
		t.Fatal(err)
	}
	list := resp.GetPayload()
	if n := len(list); proto.Size(resp) > oldAnswer+1024 || n != 6 || !bytes.Contains(list[n-1], []byte("9xxx")) {
		t.Errorf("%d lines, %d bytes", n, proto.Size(resp))
	}
}

func TestOldContainerMetrics(t *testing.T) {
	d := start(t, 4<<20, nil)
	defer d.stop()
	now := time.Now()
	newest := []*loggregatorv2.Envelope{container("1", 4, now), container("0", 3, now)}
	d.add(container("7", 1, now.Add(-time.Hour)), container("0", 2, now), newest[1], newest[0])
	d.emit("app", 10)
	resp, err := d.old().ContainerMetrics(t.Context(), &plumbingpb.ContainerMetricsRequest{AppId: "app"})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{v1Of(t, newest[0]), v1Of(t, newest[1])}
	if !slices.EqualFunc(resp.GetPayload(), want, bytes.Equal) {
		t.Errorf("got %q, want %q", resp.GetPayload(), want)
	}
}

func TestOldReadsWhileStopping(t *testing.T) {
	d := start(t, 4<<20, nil)
	client := d.old()
	d.server.draining.Store(true)
	_, err := client.RecentLogs(t.Context(), &plumbingpb.RecentLogsRequest{AppId: "app"})
	_, errMetrics := client.ContainerMetrics(t.Context(), &plumbingpb.ContainerMetricsRequest{AppId: "app"})
	if status.Code(err) != codes.Unavailable || status.Code(errMetrics) != codes.Unavailable {
		t.Errorf("%v, %v", err, errMetrics)
	}
	d.stop()
}
