package nozzletest_test

import (
	"context"
	"fmt"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
)

// Does the nozzle lose anything when its connection breaks before it has
// acked?
func Example() {
	server := nozzletest.NewServer()
	defer server.Close()
	server.Push(&loggregatorv2.Envelope{SourceId: "my-app"})
	ctx := context.Background()

	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: server.Addr(), Subscription: "under-test"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stream.Close()
	for range 2 {
		batch, err := stream.Recv(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(batch.Len(), "envelope, redelivered:", batch.Redelivered)
		if batch.Redelivered {
			batch.Ack()
		} else {
			server.Cut()
		}
	}
	fmt.Println("acked:", server.WaitAcked(ctx, 1) == nil)
	// Output:
	// 1 envelope, redelivered: false
	// 1 envelope, redelivered: true
	// acked: true
}
