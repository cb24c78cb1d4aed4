package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/doppler/internal/limit"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// countAppender counts envelopes and lets go of them.
type countAppender struct{ n atomic.Uint64 }

func (c *countAppender) Append(_ []byte, recs []envelope.Record) uint64 {
	return c.n.Add(uint64(len(recs)))
}

// The load comes from a process of its own, so that the CPU time of this one
// is the server's alone: cpu-ns/env is what an envelope costs here, wall time
// says little.
func BenchmarkIngress(b *testing.B) {
	for _, bench := range []struct {
		name, method   string
		batch, streams int
	}{
		{"batch100", "BatchSender", 100, 4}, {"batch10", "BatchSender", 10, 4},
		{"single", "Sender", 1, 4}, {"single64", "Sender", 1, 64}, {"pushed", "Pusher", 1, 4}, {"pushed64", "Pusher", 1, 64},
	} {
		b.Run(bench.name, func(b *testing.B) { benchmark(b, bench.method, bench.batch, bench.streams) })
	}
}

// BenchmarkPushed is what the old form of an envelope costs beside gRPC.
func BenchmarkPushed(b *testing.B) {
	var sink countAppender
	server, err := New(testConfig(), &sink)
	if err != nil {
		b.Fatal(err)
	}
	s := &stream{server: server, framing: Pushed}
	msg := pushed(referenceV1(b))
	m := &message{mem.BufferSlice{mem.SliceBuffer(msg)}}
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		s.takePushed(m)
	}
}

// BenchmarkTake is what taking a batch costs beside gRPC and appending.
func BenchmarkTake(b *testing.B) {
	batches := referenceMessages("BatchSender", 100)
	record := func(source int) []byte {
		return batches[0][source*len(batches[0])/100 : (source+1)*len(batches[0])/100]
	}
	for _, bench := range []struct {
		name    string
		msg     []byte
		limiter Limiter
	}{
		{"off", batches[0], nil},
		{"one-source", bytes.Repeat(record(0), 100), limit.New(limit.Config{Rate: limit.MaxRate, Burst: limit.MaxBurst, Classes: envelope.AllClasses})},
		{"many-sources", batches[0], limit.New(limit.Config{Rate: limit.MaxRate, Burst: limit.MaxBurst, Classes: envelope.AllClasses})},
		{"over", batches[0], limit.New(limit.Config{Rate: 1, Classes: envelope.AllClasses})},
	} {
		b.Run(bench.name, func(b *testing.B) {
			cfg := testConfig()
			cfg.Limiter = bench.limiter
			server, err := New(cfg, &countAppender{})
			if err != nil {
				b.Fatal(err)
			}
			defer server.grpc.Stop()
			s := &stream{server: server}
			m := &message{mem.BufferSlice{mem.SliceBuffer(bench.msg)}}
			b.ReportAllocs()
			for b.Loop() {
				s.takeBatch(m)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/env")
		})
	}
}

func benchmark(b *testing.B, method string, batch, streams int) {
	var sink countAppender
	server, err := New(testConfig(), &sink)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	result := make(chan error, 1)
	go func() { result <- run(ctx, server, l) }()
	load := exec.Command(os.Args[0])
	load.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %d", loadVariable, l.Addr(), method, batch, streams))
	load.Stderr = os.Stderr
	stdin, err := load.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := load.Start(); err != nil {
		b.Fatal(err)
	}
	for sink.n.Load() < 1000 {
		time.Sleep(time.Millisecond)
	}
	b.ReportAllocs()
	b.ResetTimer()
	from, before := sink.n.Load(), cpuTime(b)
	for sink.n.Load()-from < uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	got, used := sink.n.Load()-from, cpuTime(b)-before
	b.StopTimer()
	b.ReportMetric(float64(used)/float64(got), "cpu-ns/env")
	b.ReportMetric(float64(got)/b.Elapsed().Seconds(), "env/s")
	_ = stdin.Close()
	_ = load.Wait()
	cancel()
	if err := <-result; err != nil {
		b.Fatal(err)
	}
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const loadVariable = "INGRESS_BENCHMARK_LOAD"

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

var _ encoding.CodecV2 = rawCodec{}

// runLoad is the other process: it sends until standard input is closed.
func runLoad(spec string) error {
	fields := strings.Fields(spec)
	method := fields[1]
	batch, err := strconv.Atoi(fields[2])
	if err != nil {
		return err
	}
	streams, err := strconv.Atoi(fields[3])
	if err != nil {
		return err
	}
	messages := referenceMessages(method, batch)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	var running sync.WaitGroup
	for i := range streams {
		running.Go(func() { send(ctx, fields[0], method, messages, i) })
	}
	running.Wait()
	return nil
}

func send(ctx context.Context, addr, method string, messages [][]byte, from int) {
	client, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})), grpc.WithInitialWindowSize(64<<10))
	if err != nil {
		return
	}
	defer client.Close()
	stream, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, service(method)+method)
	if err != nil {
		return
	}
	for i := from; stream.SendMsg(messages[i%len(messages)]) == nil; i++ {
	}
}

// referenceMessages makes messages of reference envelopes from 1,000 sources.
func referenceMessages(method string, batch int) [][]byte {
	var old dropsonde.Encoder
	messages := make([][]byte, 200)
	seq := uint64(0)
	for i := range messages {
		for range batch {
			stamp, err := envelopetest.NewStamp(fmt.Sprintf("f47ac10b-58cc-4372-a567-0e02b2c3d%03d", seq%1000))
			if err != nil {
				return nil
			}
			switch method {
			case "Sender":
				messages[i] = stamp.Append(messages[i], seq, time.Unix(1_700_000_000, 0))
			case "Pusher":
				v1, _ := old.AppendV1(nil, nil, stamp.Append(nil, seq, time.Unix(1_700_000_000, 0)))
				messages[i] = pushed(v1)
			default:
				messages[i] = stamp.AppendRecord(messages[i], seq, time.Unix(1_700_000_000, 0))
			}
			seq++
		}
	}
	return messages
}
