package nozzle_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
)

func hello(source, text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		SourceId: source,
		Message:  &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}},
	}
}

// A whole consumer: nothing it has acked comes again, nothing it has not acked
// gets lost.
func Example() {
	server := nozzletest.NewServer() // ws://localhost:8081 in real life
	defer server.Close()
	server.Push(hello("my-app", "it works"))
	ctx := context.Background()

	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: server.Addr(), Subscription: "my-nozzle"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for range 1 { // or for ever
		batch, err := stream.Recv(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		envelopes, _ := batch.Decode()
		for _, e := range envelopes {
			fmt.Printf("%s: %s\n", e.GetSourceId(), e.GetLog().GetPayload())
		}
		batch.Ack()
	}
	// Output: my-app: it works
}

// Encoded envelopes need not be decoded to be kept, and every one has an
// identity.
func ExampleBatch_All() {
	server := nozzletest.NewServer()
	defer server.Close()
	server.Push(hello("a", "x"), hello("b", "y"))
	ctx := context.Background()

	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: server.Addr(), Subscription: "archive"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for seen := 0; seen < 2; {
		batch, err := stream.Recv(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		for id, envelope := range batch.All() {
			fmt.Println(id, len(envelope), "bytes")
			seen++
		}
		batch.Ack()
		batch.Release()
	}
	// Output:
	// doppler-0/1/0 8 bytes
	// doppler-0/1/1 8 bytes
}

// What a reader will never get is told where it is missing.
func ExampleBatch_gaps() {
	server := nozzletest.NewServer()
	defer server.Close()
	server.Gap(48211, streampb.Gap_EVICTED)
	ctx := context.Background()

	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: server.Addr(), Subscription: "slow"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	batch, err := stream.Recv(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, gap := range batch.Gaps {
		fmt.Println(gap.GetDoppler(), "lost", gap.GetCount(), gap.GetPrecision(), gap.GetReason())
	}
	batch.Ack()
	// Output: doppler-0 lost 48211 EXACT EVICTED
}

// A cursor lets a nozzle continue that was away for longer than the Dopplers
// remember its subscription.
func ExampleStream_Cursor() {
	server := nozzletest.NewServer()
	defer server.Close()
	server.SetBatchSize(1)
	server.Push(hello("a", "one"), hello("a", "two"))
	ctx := context.Background()

	read := func(subscription, cursor string) string {
		stream, err := nozzle.Open(ctx, nozzle.Config{Addr: server.Addr(), Subscription: subscription, Cursor: cursor})
		if err != nil {
			return err.Error()
		}
		batch, err := stream.Recv(ctx)
		if err != nil {
			return err.Error()
		}
		envelopes, _ := batch.Decode()
		fmt.Printf("%s\n", envelopes[0].GetLog().GetPayload())
		batch.Ack()
		_ = stream.Close()
		return stream.Cursor() // store it where the envelopes are
	}
	cursor := read("before", "")
	read("long after", cursor)
	// Output:
	// one
	// two
}

// Errors say by their code what can be done about them.
func ExampleError() {
	server := nozzletest.NewServer()
	defer server.Close()
	server.Refuse(1, 403, "the Firehose needs the scope doppler.firehose")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: server.Addr(), Subscription: "mine"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	_, err = stream.Recv(ctx)
	var failure *nozzle.Error
	if errors.As(err, &failure) {
		fmt.Println(failure.Code, failure.Status)
	}
	// Output: forbidden 403
}
