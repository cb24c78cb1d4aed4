module github.com/a1ea6966/loggregator/firehose-nozzle

go 1.26.0

replace github.com/a1ea6966/loggregator/api => ../api

require (
	github.com/a1ea6966/loggregator/api v0.0.0
	github.com/cenkalti/backoff/v4 v4.3.0
	go.uber.org/goleak v1.3.0
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/grpc v1.85.0 // indirect
	nhooyr.io/websocket v1.8.17 // indirect
)
