package envelope_test

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

func ExampleScanBatch() {
	batch := &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{
		{SourceId: "web", Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("hello")}}},
		{SourceId: "router", Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http"}}},
	}}
	msg, err := proto.Marshal(batch)
	if err != nil {
		fmt.Println(err)
		return
	}
	msg = append(msg, "\x0a\x02\x08\x80"...) // an envelope that ends too early

	records, dropped := envelope.ScanBatch(msg, envelope.Limits{}, nil)
	for _, r := range records {
		fmt.Printf("%s: %s, %d bytes\n", msg[r.SourceStart:r.SourceEnd], r.Class, r.End-r.Start)
	}
	fmt.Println("malformed:", dropped.Malformed)
	// Output:
	// web: log, 14 bytes
	// router: http-timer, 16 bytes
	// malformed: 1
}
