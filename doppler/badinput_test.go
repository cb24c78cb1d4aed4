package doppler_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// bytesCodec sends what no protobuf library would.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func TestBadInputFromProducers(t *testing.T) {
	good, err := proto.Marshal(logLine("app", "good"))
	if err != nil {
		t.Fatal(err)
	}
	notText := bytes.Replace(good, []byte("app"), []byte("a\xffp"), 1)
	longSource, err := proto.Marshal(logLine(strings.Repeat("s", 257), "x"))
	if err != nil {
		t.Fatal(err)
	}
	with := func(bad []byte) []byte {
		b := envelope.AppendRecord(nil, good)
		return envelope.AppendRecord(envelope.AppendRecord(b, bad), good)
	}
	for _, test := range []struct {
		name    string
		message []byte
		kept    string
		dropped string
	}{
		{"garbage", []byte("\xff\xffthis is no batch"), "0", `cause="truncated"`},
		{"invalid UTF-8", with(notText), "2", `cause="malformed"`},
		{"over-long source id", with(longSource), "2", `cause="source_too_long"`},
		{"large envelope", with(append(good, bytes.Repeat([]byte{0xa2, 1, 1, 0}, 1<<18)...)), "2", `cause="too_large"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := start(t, unread)
			s, err := r.producer().NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true},
				"/loggregator.v2.Ingress/BatchSender", grpc.ForceCodecV2(bytesCodec{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SendMsg(test.message); err != nil {
				t.Fatal(err)
			}
			eventually(t, "drop counted", func() bool {
				_, _, metrics := r.get(r.AdminAddr(), "/metrics")
				return strings.Contains(metrics, "doppler_ingress_dropped_total{"+test.dropped+"} 1\n") &&
					strings.Contains(metrics, "doppler_ingress_envelopes_total "+test.kept+"\n")
			})
			// The stream lives on, and ends well.
			if err := errors.Join(s.SendMsg(envelope.AppendRecord(nil, good)), s.CloseSend()); err != nil {
				t.Fatal(err)
			}
			if err := s.RecvMsg(nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBadInputFromOldProducers: payloads that cannot be decoded are skipped and
// counted, and cost nobody else anything.
func TestBadInputFromOldProducers(t *testing.T) {
	good := pushed(v1Line("app", "good"))
	for _, test := range []struct {
		name    string
		message []byte
		dropped string
	}{
		{"garbage", []byte("\xff\xffthis is no EnvelopeData"), `cause="malformed"`},
		{"payload is garbage", pushed([]byte("\xff\xffthis is no Envelope")), `cause="malformed"`},
		{"no event type", pushed([]byte("\x0a\x06origin")), `cause="malformed"`},
		{"over-long source id", pushed(v1Line(strings.Repeat("s", 257), "x")), `cause="source_too_long"`},
		{"large envelope", pushed(v1Line("app", strings.Repeat("x", 1<<20))), `cause="too_large"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := start(t, unread)
			s, err := r.producer().NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true},
				"/plumbing.DopplerIngestor/Pusher", grpc.ForceCodecV2(bytesCodec{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.SendMsg(good), s.SendMsg(test.message), s.SendMsg(good), s.CloseSend()); err != nil {
				t.Fatal(err)
			}
			// The answer says that all was taken.
			if err := s.RecvMsg(nil); err != nil {
				t.Error(err)
			}
			_, _, metrics := r.get(r.AdminAddr(), "/metrics")
			for _, want := range []string{
				"doppler_ingress_dropped_total{" + test.dropped + "} 1\n", `doppler_ingress_framing_envelopes_total{framing="v1"} 2` + "\n",
				"doppler_ingress_envelopes_total 2\n", "doppler_ingress_messages_total 3\n",
			} {
				if !strings.Contains(metrics, want) {
					t.Errorf("no %s", want)
				}
			}
		})
	}
}

// v1Line is a log line of the old protocol, pushed the EnvelopeData of one.
func v1Line(app, text string) []byte {
	return dropsonde.AppendLogMessage(nil, "origin", text, app, "APP", "0", false, 7)
}

func pushed(v1 []byte) []byte { return protowire.AppendBytes([]byte{0x0a}, v1) }

// TestBadRequestsFromOldReaders: what is over a limit is refused and named.
func TestBadRequestsFromOldReaders(t *testing.T) {
	r := start(t, unread)
	client := plumbingpb.NewDopplerClient(r.producer())
	for _, q := range []*plumbingpb.SubscriptionRequest{
		{ShardId: strings.Repeat("s", 1025)}, {Filter: &plumbingpb.Filter{AppId: strings.Repeat("s", 4097)}},
	} {
		calls, err := client.Subscribe(t.Context(), q)
		if err == nil {
			_, err = calls.Recv()
		}
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "the limit is") {
			t.Errorf("got %v", err)
		}
	}
	s, err := r.producer().NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true},
		"/plumbing.Doppler/Subscribe", grpc.ForceCodecV2(bytesCodec{}))
	if err == nil {
		err = errors.Join(s.SendMsg([]byte("\xff\xffgarbage")), s.CloseSend())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(nil); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
}

func TestBatchOverTheMessageLimit(t *testing.T) {
	r := start(t, unread)
	s, err := r.producer().NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true},
		"/loggregator.v2.Ingress/BatchSender", grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMsg(make([]byte, 11<<20)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	err = s.RecvMsg(nil)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "10485760") {
		t.Errorf("got %v", err)
	}
	_, _, metrics := r.get(r.AdminAddr(), "/metrics")
	if !strings.Contains(metrics, `doppler_ingress_dropped_total{cause="message_too_large"} 1`) {
		t.Error("not counted")
	}
}

func TestBadRequests(t *testing.T) {
	r := start(t, unread)
	upgrade := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}
	for _, test := range []struct {
		path   string
		header http.Header
		status int
		words  string
	}{
		{"/nowhere", nil, 404, "/v2/firehose"},
		{"/v2/nowhere", nil, 404, "/v2/firehose"},
		{"/v2/firehose", nil, 426, "WebSocket"},
		{"/v2/tails", nil, 426, "WebSocket"},
		{"/v2/firehose?type=noise", upgrade, 400, `"noise"`},
		{"/v2/firehose?start=middle", upgrade, 400, `"middle"`},
		{"/v2/firehose?ack=never", upgrade, 400, `"never"`},
		{"/v2/firehose?cursor=%21", upgrade, 400, "cursor"},
		{"/v2/firehose?shard_id=" + strings.Repeat("s", 2000), upgrade, 400, "1024"},
		{"/v2/history/app?limit=many", nil, 400, `"many"`},
		{"/v2/history/app?type=noise", nil, 400, `"noise"`},
		{"/v2/history/app?limit=10000000", nil, 400, "100000"},
	} {
		t.Run(strings.Split(test.path, "ssssss")[0], func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.StreamAddr()+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.header != nil {
				req.Header = test.header.Clone()
			}
			resp, err := r.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.status || !strings.Contains(string(body), test.words) {
				t.Errorf("%d %s, want %d with %q", resp.StatusCode, body, test.status, test.words)
			}
			if test.status == http.StatusUpgradeRequired && !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
				t.Errorf("Upgrade header is %q", resp.Header.Get("Upgrade"))
			}
		})
	}
}

// TestCursorOfAnotherEpoch: the reader gets all of this epoch, and is told
// that it may have missed some of the other.
func TestCursorOfAnotherEpoch(t *testing.T) {
	r := start(t, unread)
	r.emitLines("app", 0, 10)
	for _, test := range []struct {
		name  string
		entry *streampb.CursorEntry
		gaps  int
	}{
		{"crashed", &streampb.CursorEntry{Doppler: "doppler-0", Epoch: 1, Offset: 100, Matched: 100}, 1},
		{"finished", &streampb.CursorEntry{Doppler: "doppler-0", Epoch: 1, Offset: 100, Matched: 100, Finished: true}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cursor := stream.EncodeCursor(&streampb.Cursor{Entries: []*streampb.CursorEntry{test.entry}})
			c := r.read("cursor=" + url.QueryEscape(cursor))
			c.lineCount(10)
			c.wantLines(0, 10)
			if len(c.gaps) != test.gaps {
				t.Fatalf("gaps %v", c.gaps)
			}
			for _, g := range c.gaps {
				if g.GetPrecision() != streampb.Gap_UNKNOWN || g.GetReason() != streampb.Gap_DOPPLER_LOST {
					t.Errorf("gap %v", g)
				}
			}
		})
	}
}

func TestBadClientMessage(t *testing.T) {
	r := start(t, unread)
	conn, err := stream.Dial(t.Context(), "ws://"+r.StreamAddr()+stream.PathTails, stream.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	// Not a Control at all.
	if err := conn.Send(t.Context(), []byte("\xff\xff")); err != nil {
		t.Fatal(err)
	}
	for {
		buf, err := conn.Read(t.Context())
		if err != nil {
			var closed *stream.CloseError
			if !errors.As(err, &closed) || closed.Code != stream.CloseBadMessage {
				t.Errorf("got %v", err)
			}
			return
		}
		buf.Release()
	}
}

// TestStuckReader: who takes nothing is told so and disconnected.
func TestStuckReader(t *testing.T) {
	r := start(t, func(c *doppler.Config) {
		c.WindowBytes, c.SocketBufferBytes, c.StuckTimeout = 8<<20, 4<<10, time.Second
	})
	c := r.read("shard_id=stuck")
	c.mute = true
	r.emitLines("app", 0, 30_000)
	eventually(t, "stuck reader is gone", func() bool {
		_, _, body := r.get(r.AdminAddr(), "/metrics")
		return strings.Contains(body, "doppler_subscriptions 0\n")
	})
	c.until(func() bool { return false })
	var closed *stream.CloseError
	if !errors.As(c.err, &closed) || closed.Code != stream.CloseStuck {
		t.Errorf("closed with %v after %d lines", c.err, len(c.lines))
	}
}
