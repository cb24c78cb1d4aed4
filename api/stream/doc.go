// Package stream is the WebSocket contract between Doppler, Traffic Controller
// and their readers: paths, messages, close codes, cursor strings, and the
// connections that carry them.
//
// Server messages are binary Batches (package streampb), client messages
// binary Controls. A Batch is encoded metadata first, then the envelopes as
// field-1 records, so a relay looks at a prefix and passes the rest on:
// SplitBatch, UnmarshalMeta, AppendBatchMeta.
//
// A Conn is one WebSocket, either side. The library does the handshake; the
// frames are this package's own, because a server here sends bytes that are
// encoded already and shared among readers, many per system call, and because
// an idle reader must cost little: nothing but the goroutine that reads.
//
// A Follower keeps a client connected. A Resume keeps the place to come back
// to.
package stream

import "time"

// Version is the protocol version a server says in its Hello.
const Version = 1

// Subprotocol is what a client asks for to be served Batches.
const Subprotocol = "loggregator.v2.batch"

// Paths of a Doppler. PathHistory is followed by the path-escaped source id.
const (
	PathFirehose      = "/v2/firehose"
	PathTails         = "/v2/tails"
	PathHistory       = "/v2/history/"
	PathSources       = "/v2/sources"
	PathSubscriptions = "/v2/subscriptions"
)

// Defaults of AcceptOptions and DialOptions.
const (
	DefaultSocketBuffer    = 256 << 10 // bytes, per direction
	DefaultServerReadLimit = 1 << 20   // bytes of one client message
	DefaultClientReadLimit = 16 << 20  // bytes of one server message
)

// What a connection waits for at most.
const (
	closeTimeout     = 400 * time.Millisecond // each of: the writer, the peer's answer
	lastTimeout      = closeTimeout / 4       // what TLS has to say after that
	controlTimeout   = 60 * time.Second       // a control frame that cannot be left for later
	handshakeTimeout = 10 * time.Second
)
