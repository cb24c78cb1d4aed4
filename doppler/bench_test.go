package doppler_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/doppler"
)

const loadVariable = "DOPPLER_BENCHMARK_LOAD"

// BenchmarkTakeIn is what an envelope costs from the socket to the ring and,
// when the ring lets go of it, to the recent store: cpu-ns/env, of all of the
// process. Nobody reads. The load is a process of its own.
func BenchmarkTakeIn(b *testing.B) {
	for _, bench := range []struct {
		name  string
		batch int
	}{{"batch100", 100}, {"single", 1}} {
		b.Run(bench.name, func(b *testing.B) { benchmarkTakeIn(b, bench.batch) })
	}
}

func benchmarkTakeIn(b *testing.B, batch int) {
	c := doppler.DefaultConfig()
	c.GRPCAddr, c.StreamAddr, c.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.RingBytes, c.DrainGrace = 256<<20, 0
	r := startConfig(b, c)
	load := exec.Command(os.Args[0])
	load.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", loadVariable, r.GRPCAddr(), batch))
	load.Stderr = os.Stderr
	stdin, err := load.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := load.Start(); err != nil {
		b.Fatal(err)
	}
	// Let the ring fill, so that envelopes leave it as fast as they come.
	for r.count(b, "doppler_ring_evicted_total") < 100_000 {
		time.Sleep(50 * time.Millisecond)
	}
	b.ResetTimer()
	from, before := r.count(b, "doppler_ring_envelopes_total"), cpuTime(b)
	got := 0.0
	for got < float64(b.N) {
		time.Sleep(50 * time.Millisecond)
		got = r.count(b, "doppler_ring_envelopes_total") - from
	}
	used := cpuTime(b) - before
	b.StopTimer()
	b.ReportMetric(float64(used)/got, "cpu-ns/env")
	b.ReportMetric(got/b.Elapsed().Seconds(), "env/s")
	_ = stdin.Close()
	_ = load.Wait()
	r.stop()
}

func (r *rig) count(tb testing.TB, metric string) float64 {
	tb.Helper()
	_, _, text := r.get(r.AdminAddr(), "/metrics")
	for line := range strings.Lines(text) {
		var n float64
		if _, err := fmt.Sscanf(line, metric+" %g", &n); err == nil {
			return n
		}
	}
	tb.Fatalf("no metric %s", metric)
	return 0
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// runLoad is the other process: it sends until standard input is closed.
func runLoad(spec string) error {
	var addr string
	var batch int
	if _, err := fmt.Sscan(spec, &addr, &batch); err != nil {
		return fmt.Errorf("load %q: %w", spec, err)
	}
	messages, err := referenceMessages(batch)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() { sendEndlessly(ctx, addr, batch == 1, messages) })
	}
	running.Wait()
	return nil
}

func sendEndlessly(ctx context.Context, addr string, single bool, messages [][]byte) {
	client, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		return
	}
	defer client.Close()
	method := "/loggregator.v2.Ingress/BatchSender"
	if single {
		method = "/loggregator.v2.Ingress/Sender"
	}
	s, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
	if err != nil {
		return
	}
	for i := 0; s.SendMsg(messages[i%len(messages)]) == nil; i++ {
	}
}

// referenceMessages makes messages of reference envelopes from 1,000 sources.
func referenceMessages(batch int) ([][]byte, error) {
	messages := make([][]byte, 1000)
	seq := 0
	for i := range messages {
		for range batch {
			stamp, err := envelopetest.NewStamp(envelopetest.Source(seq % 1000))
			if err != nil {
				return nil, err
			}
			if batch == 1 {
				messages[i] = stamp.Append(messages[i], uint64(seq), time.Unix(1_700_000_000, 0))
			} else {
				messages[i] = stamp.AppendRecord(messages[i], uint64(seq), time.Unix(1_700_000_000, 0))
			}
			seq++
		}
	}
	return messages, nil
}
