package main

import (
	"context"
	"fmt"
	"time"

	loggregator "code.cloudfoundry.org/go-loggregator/v10"
	v2 "code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/integration/clients/mix"
)

// emit emits one envelope of each kind with IngressClient.
func emit(ctx context.Context, args []string) error {
	var tls secure
	f := newFlags("emit")
	addr := f.String("addr", "", "address of a Doppler or agent")
	source := f.String("source", mix.Apps[0], "source id")
	tls.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	config, err := tls.config()
	if err != nil {
		return err
	}
	c, err := loggregator.NewIngressClient(config, loggregator.WithAddr(*addr), loggregator.WithContext(ctx), loggregator.WithTag("by", "realclient"))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	c.EmitLog("to stdout", loggregator.WithAppInfo(*source, "APP/PROC/WEB", "0"), loggregator.WithStdout())
	c.EmitLog("to stderr", loggregator.WithSourceInfo(*source, "APP/PROC/WEB", "1"))
	c.EmitCounter("delta", loggregator.WithDelta(5), loggregator.WithCounterSourceInfo(*source, "2"))
	c.EmitCounter("total", loggregator.WithTotal(50), loggregator.WithCounterAppInfo(*source, 3))
	c.EmitGauge(loggregator.WithGaugeValue("temperature", 36.6, "C"), loggregator.WithGaugeSourceInfo(*source, "4"))
	c.EmitTimer("http", time.Unix(1, 5), time.Unix(2, 6), loggregator.WithTimerSourceInfo(*source, "5"))
	if err := c.EmitEvent(ctx, "title", "body", loggregator.WithEventSourceInfo(*source, "6")); err != nil {
		return fmt.Errorf("emit event: %w", err)
	}
	if err := c.CloseSend(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// sender sends numbered envelopes one way.
type sender struct {
	stream grpc.ClientStream
	batch  []*v2.Envelope
	how    string
	unary  v2.IngressClient
}

// paths are the gRPC methods by the name of the way.
var paths = map[string]string{
	"sender": "/loggregator.v2.Ingress/Sender", "batch": "/loggregator.v2.Ingress/BatchSender",
	mix.Pushed: "/plumbing.DopplerIngestor/Pusher", "unary": "",
}

// send sends envelopes of a run, and says how many the server has to count.
func send(ctx context.Context, args []string) error {
	var tls secure
	f := newFlags("send")
	addr := f.String("addr", "", "address of a Doppler")
	run := f.String("run", "", "name of the run")
	via := f.String("via", "batch", "sender, batch, push (v1) or unary; what follows a - is a name")
	count := f.Int("count", 0, "how many")
	rate := f.Int("rate", 0, "how many a second; 0 for no limit")
	tls.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	creds, err := tls.grpc()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+*addr, creds)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	s := sender{how: *via, unary: v2.NewIngressClient(conn)}
	path, ok := paths[*via]
	if !ok {
		return fmt.Errorf("there is no way %q", *via)
	}
	if path != "" {
		if s.stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, path, grpc.ForceCodecV2(eitherCodec{})); err != nil {
			return fmt.Errorf("open stream: %w", err)
		}
	}
	begin, sent := time.Now(), 0
	for n := range *count {
		if err := s.send(ctx, *run, n, n == *count-1); err != nil {
			return err
		}
		sent += len(mix.V2(*run, *via, n))
		if *rate > 0 && n%100 == 99 {
			pause(ctx, time.Until(begin.Add(time.Duration(n)*time.Second/time.Duration(*rate))))
		}
	}
	if s.stream != nil {
		if err := s.stream.CloseSend(); err != nil {
			return fmt.Errorf("close stream: %w", err)
		}
		_ = s.stream.RecvMsg(nil) // its end, which is an error to some servers
	}
	return say(map[string]int{"sent": sent})
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

const batchSize = 100

func (s *sender) send(ctx context.Context, run string, n int, last bool) error {
	if s.how == mix.Pushed {
		for _, e := range mix.ToV1(mix.Envelope(run, s.how, n)) {
			payload, err := proto.Marshal(e)
			if err != nil {
				return fmt.Errorf("encode number %d: %w", n, err)
			}
			if err := s.stream.SendMsg(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), payload)); err != nil {
				return fmt.Errorf("push: %w", err)
			}
		}
		return nil
	}
	if s.batch = append(s.batch, mix.Envelope(run, s.how, n)); s.how != "sender" && len(s.batch) < batchSize && !last {
		return nil
	}
	var err error
	switch s.how {
	case "sender":
		err = s.stream.SendMsg(s.batch[0])
	case "batch":
		err = s.stream.SendMsg(&v2.EnvelopeBatch{Batch: s.batch})
	default:
		_, err = s.unary.Send(ctx, &v2.EnvelopeBatch{Batch: s.batch})
	}
	if s.batch = nil; err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// eitherCodec sends encoded messages as they are, and others as protobuf.
type eitherCodec struct{}

// Name is that of the protobuf codec, for that is what goes over the wire.
func (eitherCodec) Name() string { return "proto" }

// Marshal encodes v, if it is not.
func (eitherCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return encoding.GetCodecV2("proto").Marshal(v)
}

// Unmarshal ignores the answer: it says nothing but that it came.
func (eitherCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
