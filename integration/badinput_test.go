package integration

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestWrongFlagsAreAllToldAtOnce(t *testing.T) {
	tests := map[string]struct {
		args []string
		said []string
	}{
		process.Doppler: {
			[]string{"--ring-bytes", "1", "--linger", "soon", "--grpc-addr", "nowhere", "--no-such-flag"},
			[]string{"ring-bytes", "linger", "grpc-addr", "no-such-flag"},
		},
		process.TrafficController: {
			[]string{"--addr", "nowhere", "--stuck-timeout", "soon", "--max-recent", "-1", "--doppler", "nowhere", "--no-such-flag"},
			[]string{"addr", "stuck-timeout", "max-recent", "doppler", "no-such-flag", "disable-access-control"},
		},
		process.Nozzle: {
			[]string{"--no-such-flag", "--another"},
			[]string{"no-such-flag", "another"},
		},
		process.Lgr: {
			[]string{"emit", "--rate", "fast", "--no-such-flag"},
			[]string{"--rate", "no-such-flag"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := launch(t, name, process.Command{Args: test.args})
			code, err := p.Wait(deadline(t))
			if err != nil || code != 2 {
				t.Errorf("code %d, %v, want 2", code, err)
			}
			for _, said := range test.said {
				if !strings.Contains(p.Log(), said) {
					t.Errorf("does not name %s:\n%s", said, p.Log())
				}
			}
		})
	}
}

func TestWrongRequestsGetPlainAnswers(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	public := strings.Replace(p.URL(0), "ws://", "http://", 1)
	inside := "http://" + p.Dopplers[0].Addrs[pipeline.Stream]
	for url, status := range map[string]int{
		public + "/firehose/some": http.StatusBadRequest, public + "/apps/some/stream": http.StatusBadRequest, // as old clients know it
		inside + "/v2/firehose": http.StatusUpgradeRequired, inside + "/v2/tails": http.StatusUpgradeRequired,
	} {
		if body := get(ctx, t, url, status); !strings.Contains(body, "WebSocket") {
			t.Errorf("%s: %q does not say what is needed", url, body)
		}
	}
	for _, url := range []string{public + "/no/such/path", inside + "/no/such/path", "http://" + p.Controllers[0].Addrs[pipeline.Admin] + "/nothing"} {
		if body := get(ctx, t, url, http.StatusNotFound); strings.TrimSpace(body) == "" {
			t.Errorf("%s: says nothing", url)
		}
	}
	refused := map[string]struct {
		path, subprotocol string
		said              []string
	}{
		"no subprotocol":  {"/firehose/s?cursor=c", "", []string{"cursor", stream.Subprotocol}},
		"unknown type":    {"/firehose/s?type=metrics", stream.Subprotocol, []string{"type", "metrics", "gauge"}},
		"not a cursor":    {"/firehose/s?cursor=!", stream.Subprotocol, []string{"cursor"}},
		"ack by nobody":   {"/firehose/s?ack=never", stream.Subprotocol, []string{"ack", "never"}},
		"too many recent": {"/apps/a/stream?recent=1000000000", stream.Subprotocol, []string{"recent"}},
		"recent of words": {"/apps/a/stream?recent=many", stream.Subprotocol, []string{"recent", "many"}},
		"since soon":      {"/apps/a/stream?since=soon", stream.Subprotocol, []string{"since", "soon"}},
	}
	for name, test := range refused {
		t.Run(name, func(t *testing.T) {
			_, err := stream.Dial(ctx, public+test.path, stream.DialOptions{Subprotocol: test.subprotocol})
			var answer *stream.HandshakeError
			if !errors.As(err, &answer) || answer.Status != http.StatusBadRequest {
				t.Fatalf("answer %v, want 400", err)
			}
			for _, said := range test.said {
				if !strings.Contains(answer.Body, said) {
					t.Errorf("%q does not name %q", answer.Body, said)
				}
			}
		})
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// push sends raw messages on one BatchSender stream and returns how it ended.
func push(ctx context.Context, t *testing.T, addr string, messages ...[]byte) error {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true},
		loggregatorv2.Ingress_BatchSender_FullMethodName, grpc.ForceCodecV2(rawCodec{}), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range messages {
		if err := out.SendMsg(message); errors.Is(err, io.EOF) {
			break // the answer says why
		} else if err != nil {
			return err
		}
	}
	if err := out.CloseSend(); err != nil {
		return err
	}
	return out.RecvMsg(nil)
}

func TestBadEnvelopesAreLeftOutAndCounted(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	reader := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), Subscription: "s"})
	stamp, err := envelopetest.NewStamp(envelopetest.Source(0))
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(0)
	good := func() []byte {
		next++
		return stamp.AppendRecord(nil, load.ID{N: next - 1}.Pack(), time.Now())
	}
	withSource := func(id string) []byte {
		return envelope.AppendRecord(nil, protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), id))
	}
	var batch []byte
	add := func(b []byte) { batch = append(batch, b...) }
	add(good())
	add(envelope.AppendRecord(nil, []byte{0xff, 0xff, 0xff})) // malformed
	add(good())
	add(withSource("\xff\xfe")) // invalid UTF-8
	add(good())
	add(withSource(strings.Repeat("x", 257))) // too long
	add(good())
	// A forged position, and more of another batch field.
	add(protowire.AppendBytes(protowire.AppendTag(nil, 1001, protowire.BytesType), []byte{1, 2, 3}))
	add(good())
	add(envelope.AppendRecord(nil, make([]byte, 2<<20))) // too large
	add(good())
	cut := append(good(), 0x0a, 0x7f, 1, 2, 3) // framing that breaks off
	garbage := []byte(strings.Repeat("\xf0garbage", 100))
	addr := p.Dopplers[0].Addrs[pipeline.GRPC]
	if err := push(ctx, t, addr, batch, garbage, cut, good()); err != nil {
		t.Errorf("a stream with bad envelopes ended with %v", err)
	}
	if err := push(ctx, t, addr, make([]byte, 11<<20)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of 11 MiB is answered with %v, want ResourceExhausted", err)
	}
	if err := push(ctx, t, addr, good()); err != nil {
		t.Error(err)
	}
	complete(ctx, t, "Firehose", reader, next)
	d := p.Dopplers[0]
	if accepted := metric(ctx, t, d, "doppler_ingress_envelopes_total"); accepted != float64(next) {
		t.Errorf("accepted %v, want %d", accepted, next)
	}
	for cause, least := range map[string]float64{
		"malformed": 2, "source_too_long": 1, "too_large": 1, "truncated": 1, "message_too_large": 1,
	} {
		if n := metric(ctx, t, d, `doppler_ingress_dropped_total{cause="`+cause+`"}`); n < least {
			t.Errorf("dropped as %s: %v, want at least %v", cause, n, least)
		}
	}
	if n := metric(ctx, t, d, "doppler_ingress_unknown_fields_total"); n < 1 {
		t.Error("the forged position was not counted")
	}
}

func TestCursorOfAnotherEpochIsOneGap(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	plan := load.Plan{Shape: load.Reference, Sources: 2, Batch: 100}
	senders := newSenders(1)
	sent := send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 1000})
	old := stream.EncodeCursor(&streampb.Cursor{Entries: []*streampb.CursorEntry{
		{Doppler: p.Dopplers[0].Name, Epoch: 1, Offset: 77, Matched: 77},
	}})
	for name, test := range map[string]struct {
		conf load.ReaderConfig
		want uint64
	}{
		"firehose": {load.ReaderConfig{Subscription: "old"}, sent},
		"tail":     {load.ReaderConfig{SourceID: plan.SourceID(1), Source: 1}, senders[0].Sent(1)},
	} {
		t.Run(name, func(t *testing.T) {
			test.conf.URL, test.conf.Query = p.URL(0), url.Values{"cursor": {old}}
			r := read(ctx, t, test.conf)
			until(ctx, t, r, "receive the new epoch and a gap", func(a load.Account, _ map[string]load.Place) bool {
				return a.Received >= test.want && a.Unknown+a.Exact+a.AtLeast > 0
			})
			if a := r.Account(); a.Received != test.want || a.Unknown != 1 || a.Exact+a.AtLeast+a.Missing+a.Repeated != 0 {
				t.Errorf("received %d of %d, gaps: %d unknown, %d exact, %d at least, missing %d",
					a.Received, test.want, a.Unknown, a.Exact, a.AtLeast, a.Missing)
			}
		})
	}
}

func TestBadClientMessageClosesWithItsCode(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	for name, url := range map[string]string{
		"Traffic Controller": p.URL(0) + "/firehose/s?ack=client",
		"Doppler":            "ws://" + p.Dopplers[0].Addrs[pipeline.Stream] + stream.PathTails,
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := stream.Dial(ctx, url, stream.DialOptions{Subprotocol: subprotocolOf(name)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			if err := conn.Send(ctx, []byte("this is no Control")); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				var b *stream.Buffer
				if b, err = conn.Read(ctx); err == nil {
					b.Release()
				}
			}
			var closed *stream.CloseError
			if !errors.As(err, &closed) || closed.Code != stream.CloseBadMessage {
				t.Errorf("ended with %v, want code %d", err, stream.CloseBadMessage)
			}
		})
	}
}

func subprotocolOf(server string) string {
	if server == "Doppler" {
		return ""
	}
	return stream.Subprotocol
}

func TestWatchOverTheLimitIsRefusedInWords(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, DopplerArgs: []string{"--max-watches", "2"}})
	conn, err := stream.Dial(ctx, "ws://"+p.Dopplers[0].Addrs[pipeline.Stream]+stream.PathTails, stream.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	watch := &streampb.Watch{Request: 7}
	for i, source := range []string{"a", "b", "c"} {
		watch.Add = append(watch.Add, &streampb.Watch_Add{SourceId: source, Watch: uint32(i + 1)})
	}
	control, err := stream.AppendControl(nil, &streampb.Control{Message: &streampb.Control_Watch{Watch: watch}})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Send(ctx, control); err != nil {
		t.Fatal(err)
	}
	answers := make(map[string]string)
	for len(answers) < 3 {
		b, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var batch streampb.Batch
		meta, _, err := stream.SplitBatch(b.Bytes())
		if err == nil {
			err = stream.UnmarshalMeta(meta, &batch)
		}
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
		for _, w := range batch.GetWatching() {
			answers[w.GetSourceId()] = w.GetError()
		}
	}
	if answers["a"] != "" || answers["b"] != "" || !strings.Contains(answers["c"], "2") {
		t.Errorf("answers are %q, want the third refused with the limit", answers)
	}
}
