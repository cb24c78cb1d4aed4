// Package stream is the WebSocket contract between a Doppler, a Traffic
// Controller and their clients: paths, frames, messages, close codes, cursor
// strings, and a client that reconnects.
//
// Every server message is one binary streampb.Batch with its metadata in front
// of the envelopes; every client message is one binary streampb.Control. It is
// the only package that imports a WebSocket library.
package stream

import (
	"fmt"
)

// Version is the version of the contract that Hello carries.
const Version = 1

// Subprotocol asks a Traffic Controller for this contract.
const Subprotocol = "loggregator.v2.batch"

// Paths of a Doppler's stream listener. A source id is path-escaped behind
// PathHistory.
const (
	PathFirehose      = "/v2/firehose"
	PathTails         = "/v2/tails"
	PathHistory       = "/v2/history/"
	PathSources       = "/v2/sources"
	PathSubscriptions = "/v2/subscriptions"
)

// CloseCode is a WebSocket close code (RFC 6455 section 7.4).
type CloseCode int

// The codes our services use.
//
//	code  meaning                                           come back?
//	1000  the stream is over as asked                       no
//	1001  the server is stopping                            yes, elsewhere
//	1002  the peer broke the WebSocket protocol             no
//	1008  no answer to a ping                               yes
//	1009  message too big                                   no
//	1011  an error inside the server                        yes
//	4001  the reader took nothing for too long              yes
//	4002  over a limit that the reason names                yes, later
//	4003  a client message that is not understood           no
//	4004  the server sends its clients elsewhere            yes, elsewhere
const (
	CloseNormal     CloseCode = 1000
	CloseGoingAway  CloseCode = 1001
	CloseProtocol   CloseCode = 1002
	ClosePolicy     CloseCode = 1008
	CloseTooBig     CloseCode = 1009
	CloseInternal   CloseCode = 1011
	CloseStuck      CloseCode = 4001
	CloseLimit      CloseCode = 4002
	CloseBadMessage CloseCode = 4003
	CloseDraining   CloseCode = 4004

	closeNoStatus CloseCode = 1005
)

// Reconnect tells whether a client should come back after this code.
func (c CloseCode) Reconnect() bool {
	switch c {
	case CloseNormal, CloseProtocol, CloseTooBig, CloseBadMessage:
		return false
	default:
		return true
	}
}

// String names the code.
func (c CloseCode) String() string {
	name := map[CloseCode]string{
		CloseNormal: "normal", CloseGoingAway: "going away", CloseProtocol: "protocol error",
		ClosePolicy: "policy", CloseTooBig: "too big", CloseInternal: "internal error",
		CloseStuck: "stuck", CloseLimit: "limit", CloseBadMessage: "bad message",
		CloseDraining: "draining", closeNoStatus: "no status",
	}[c]
	if name == "" {
		return fmt.Sprintf("code %d", int(c))
	}
	return fmt.Sprintf("%s (%d)", name, int(c))
}

// valid tells whether a peer may send the code (RFC 6455 section 7.4).
func (c CloseCode) valid() bool {
	switch {
	case c >= 3000 && c <= 4999:
		return true
	case c >= 1000 && c <= 1014:
		return c != 1004 && c != closeNoStatus && c != 1006
	}
	return false
}

// CloseError is a connection that ended with a close frame.
type CloseError struct {
	Code   CloseCode
	Reason string

	local bool // it is this side that found fault
}

// Error tells code and reason.
func (e *CloseError) Error() string {
	if e.Reason == "" {
		return "WebSocket closed: " + e.Code.String()
	}
	return "WebSocket closed: " + e.Code.String() + ": " + e.Reason
}

func protocolError(format string, args ...any) error {
	return &CloseError{Code: CloseProtocol, Reason: fmt.Sprintf(format, args...), local: true}
}
