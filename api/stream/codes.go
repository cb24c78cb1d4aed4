package stream

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// CloseCode is the status a WebSocket is closed with.
//
//	code  name             said when                                    come back
//	1000  CloseNormal      the closer is done                           yes
//	1001  CloseGoingAway   the server stops, or the client leaves       yes
//	1002  CloseProtocol    the peer broke the WebSocket protocol        no
//	1003  CloseUnsupported the peer sent a kind of message not taken    no
//	1005  CloseNoStatus    (never sent) closed without a code           yes
//	1006  CloseAbnormal    (never sent) broken without a close          yes
//	1007  CloseBadPayload  a close reason that is not UTF-8             no
//	1008  ClosePolicy      missed pong                                  yes
//	1009  CloseTooBig      a message over the limit                     no
//	1011  CloseInternal    the server failed                            yes
//	4001  CloseStuck       the reader took nothing for too long         yes
//	4002  CloseOverLimit   over a limit of the server                   yes, later
//	4003  CloseBadMessage  not a Control, or one out of place           no
//	4004  CloseDraining    the server is being drained                  yes, elsewhere
//	4005  CloseSuperseded  the same reader came back over another one   no
//	4006  CloseToken       the token has expired or was revoked         yes, with another token
//	4007  CloseWithdrawn   the reader may not read this any more        no
//
// Any other code is one to come back from, with back-off.
type CloseCode uint16

// The close codes of this contract.
const (
	CloseNormal      CloseCode = 1000
	CloseGoingAway   CloseCode = 1001
	CloseProtocol    CloseCode = 1002
	CloseUnsupported CloseCode = 1003
	CloseNoStatus    CloseCode = 1005
	CloseAbnormal    CloseCode = 1006
	CloseBadPayload  CloseCode = 1007
	ClosePolicy      CloseCode = 1008
	CloseTooBig      CloseCode = 1009
	CloseInternal    CloseCode = 1011
	CloseStuck       CloseCode = 4001
	CloseOverLimit   CloseCode = 4002
	CloseBadMessage  CloseCode = 4003
	CloseDraining    CloseCode = 4004
	CloseSuperseded  CloseCode = 4005
	CloseToken       CloseCode = 4006
	CloseWithdrawn   CloseCode = 4007
)

var closeNames = map[CloseCode]string{
	CloseNormal:      "normal",
	CloseGoingAway:   "going away",
	CloseProtocol:    "protocol error",
	CloseUnsupported: "unsupported message",
	CloseNoStatus:    "no status",
	CloseAbnormal:    "connection lost",
	CloseBadPayload:  "bad payload",
	ClosePolicy:      "policy",
	CloseTooBig:      "message too big",
	CloseInternal:    "internal error",
	CloseStuck:       "stuck reader",
	CloseOverLimit:   "over limit",
	CloseBadMessage:  "bad client message",
	CloseDraining:    "draining",
	CloseSuperseded:  "superseded",
	CloseToken:       "token not valid",
	CloseWithdrawn:   "access withdrawn",
}

// String is the number and, of a known code, its meaning in plain words.
func (c CloseCode) String() string {
	if name, ok := closeNames[c]; ok {
		return strconv.Itoa(int(c)) + " " + name
	}
	return strconv.Itoa(int(c))
}

// Reconnect tells whether a client that was closed with c should come back.
// When it says no, coming back would only meet the same answer.
func (c CloseCode) Reconnect() bool {
	switch c {
	case CloseProtocol, CloseUnsupported, CloseBadPayload, CloseTooBig, CloseBadMessage, CloseSuperseded, CloseWithdrawn:
		return false
	}
	return true
}

// sendable tells whether c may travel in a close frame (RFC 6455, 7.4).
func (c CloseCode) sendable() bool {
	switch {
	case c == 1004 || c == CloseNoStatus || c == CloseAbnormal:
		return false
	case c >= 1000 && c <= 1014, c >= 3000 && c <= 4999:
		return true
	}
	return false
}

// CloseError is how the peer closed the connection.
type CloseError struct {
	Code   CloseCode
	Reason string // at most 123 bytes, UTF-8
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return "closed by peer: " + e.Code.String()
	}
	return "closed by peer: " + e.Code.String() + ": " + e.Reason
}

// CloseOf is how a connection ended, for logs and views: said if this side
// closed it, else what is known from the error of the last read.
func CloseOf(said *CloseError, err error) CloseError {
	var closed *CloseError
	var broke *ProtocolError
	switch {
	case said != nil:
		return *said
	case errors.As(err, &closed):
		return *closed
	case errors.As(err, &broke):
		return CloseError{broke.Code, broke.Fault}
	case err != nil:
		return CloseError{CloseAbnormal, err.Error()}
	}
	return CloseError{Code: CloseAbnormal}
}

// ProtocolError is what the peer did against the contract. The connection was
// closed with Code.
type ProtocolError struct {
	Code  CloseCode
	Fault string
}

func (e *ProtocolError) Error() string { return e.Fault }

// HandshakeError is a server's answer other than a WebSocket.
type HandshakeError struct {
	Status     int           // HTTP status
	Body       string        // the server's words, at most 1 KiB
	RetryAfter time.Duration // 0 unless the server said when to come back
}

func (e *HandshakeError) Error() string {
	if e.Body == "" {
		return fmt.Sprintf("refused with %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("refused with %d %s: %s", e.Status, http.StatusText(e.Status), e.Body)
}

// Reconnect tells whether a later try may succeed without a change of what is
// asked for.
func (e *HandshakeError) Reconnect() bool {
	switch e.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
		http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUpgradeRequired:
		return false
	}
	return true
}

// Errors of a Conn.
var (
	// ErrStuck says that the peer took nothing for the timeout of a write. What
	// was to be written may still arrive, but nothing more can be written except
	// the close frame.
	ErrStuck = errors.New("peer takes nothing")
	// ErrIdle says that nothing was received for the timeout of an IdleWatch.
	ErrIdle = errors.New("nothing received for too long")
	// ErrNoPong says that a ping was not answered for as long.
	ErrNoPong = errors.New("no answer to a ping for too long")
)
