package nozzle

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
)

// Config says what to read and from where. It is copied; what its pointers,
// slices and functions refer to must not change while the stream lives.
type Config struct {
	// Addr is the Traffic Controller: a ws, wss, http or https URL, or
	// host:port, which means ws.
	Addr string

	// Subscription is the name of the subscription, for Open only, which needs
	// it. All readers of one name and one set of selectors share one stream.
	Subscription string

	// Source is the source id to follow, for Tail only, which needs it.
	Source string
	// Recent asks a Tail to begin with the newest Recent envelopes that are
	// held, Since with those from that time on. Without them, and without a
	// Cursor, it begins with what is new.
	Recent int
	Since  time.Time

	// Types, SourceIDs (Open only) and Names are selectors: only envelopes of
	// one of the types (log, counter, gauge, timer, event), of one of the
	// sources, and, of those that have a name, with one of the names (of a
	// counter, a timer or a metric of a gauge) are delivered. An empty list
	// selects everything.
	Types     []string
	SourceIDs []string
	Names     []string

	// Cursor is where to begin: what Stream.Cursor returned. It is made use of
	// when the Dopplers know no place of the subscription themselves any more.
	// It belongs to one set of selectors.
	Cursor string
	// AutoAck lets the Traffic Controller ack each batch as soon as it is in
	// the socket. What is under way when a connection breaks is lost then.
	AutoAck bool

	// TLS is used with wss and https. Nil is Go's default.
	TLS *tls.Config
	// Header, if set, is called before each dial and returns headers to send,
	// an Authorization for instance. Its error counts as a failed dial. It may
	// block until its context ends. When the token it gave is about to end, it is
	// called again, not concurrently, and the new Authorization is sent over the
	// open connection: so return a token that is still good for a while.
	Header func(context.Context) (http.Header, error)
	// MaxMessageBytes bounds the size of one message. Default 16 MiB.
	MaxMessageBytes int64
	// ReadAhead is how many bytes the stream reads while nobody calls Recv;
	// one message more at most. Default 1 MiB.
	ReadAhead int

	// MaxRetries is how often in a row a dial may fail before the stream ends
	// with CodeUnavailable, and MaxElapsed for how long. 0 is no limit; with
	// negative MaxRetries the first failure ends it.
	MaxRetries int
	MaxElapsed time.Duration

	// Notify, if set, is told what happens to the connection. It is called by
	// one goroutine, and concurrently by Recv to tell Live, and by a third to tell
	// TokenRefused; each waits for it: it must be quick and must not call methods
	// of the stream.
	Notify func(Notice)
}

// Notice is something that happened to a stream's connection.
type Notice struct {
	Kind NoticeKind
	// Server is the name of the Traffic Controller. (Connected)
	Server string
	// Err is why there is no connection (Disconnected), or why the token could
	// not be renewed (TokenRefused).
	Err error
	// Attempt counts the failures in a row, on one connection with TokenRefused,
	// and Wait is the time until the next dial, or until Header is called again; 0
	// when the server has refused a token. (Disconnected, TokenRefused)
	Attempt int
	Wait    time.Duration
	// Doppler is who left. (DopplerLeft)
	Doppler string
}

// NoticeKind says what a Notice tells.
type NoticeKind int

// The kinds of notices.
const (
	// Connected: the server has said hello.
	Connected NoticeKind = iota + 1
	// Disconnected: a connection or a dial failed; another dial follows.
	Disconnected
	// DopplerLeft: a Doppler has said that nothing more comes from it, and
	// all it had has been received.
	DopplerLeft
	// Live: Recv has returned all that a Tail asked for of the past; what
	// follows is new. It comes once per connection that asked, and, unlike the
	// others, from Recv.
	Live
	// TokenRefused: Header gave no token to renew the one before with, or the
	// server has refused it. The stream goes on until the one before ends; it is
	// tried again before.
	TokenRefused
)

// String returns the name of the kind.
func (k NoticeKind) String() string {
	switch k {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case DopplerLeft:
		return "Doppler left"
	case Live:
		return "live"
	case TokenRefused:
		return "token refused"
	}
	return fmt.Sprintf("notice(%d)", int(k))
}

// validate returns everything that is wrong, joined, and the address.
func (c *Config) validate(tail bool) (*url.URL, error) {
	var faults []error
	addf := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	addr, err := parseAddr(c.Addr)
	if err != nil {
		faults = append(faults, err)
	}
	if _, err := envelope.MaskOf(c.Types...); err != nil {
		addf("Types: %w", err)
	}
	if _, err := decodeCursor(c.Cursor); err != nil {
		addf("Cursor: %w", err)
	}
	if c.Recent < 0 {
		addf("Recent %d: must not be negative", c.Recent)
	}
	if tail {
		if c.Source == "" {
			addf("Source: a tail needs a source id")
		}
		if c.Subscription != "" || len(c.SourceIDs) != 0 || c.AutoAck {
			addf("Subscription, SourceIDs and AutoAck are for Open, not for Tail")
		}
	} else {
		if c.Subscription == "" {
			addf("Subscription: Open needs a name")
		}
		if c.Source != "" || c.Recent != 0 || !c.Since.IsZero() {
			addf("Source, Recent and Since are for Tail, not for Open")
		}
	}
	if len(faults) != 0 {
		return nil, &Error{Code: CodeInvalidArgument, Err: errors.Join(faults...)}
	}
	return addr, nil
}

func parseAddr(addr string) (*url.URL, error) {
	if addr != "" && !strings.Contains(addr, "://") {
		addr = "ws://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
	default:
		return nil, fmt.Errorf("address %q: must be a ws, wss, http or https URL, or host:port", addr)
	}
	if u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("address %q: must have a host and neither query nor fragment", addr)
	}
	return u, nil
}

// target returns the URL to dial with a cursor, as a session, which tails have
// no use for.
func (c *Config) target(addr *url.URL, cursor string, session stream.Session) string {
	q := url.Values{"type": c.Types, "name": c.Names}
	var u *url.URL
	if c.Source == "" {
		u = addr.JoinPath("firehose", url.PathEscape(c.Subscription))
		q["source_id"] = c.SourceIDs
		q.Set("session", session.String())
		q.Set("ack", "client")
		if c.AutoAck {
			q.Set("ack", "auto")
		}
	} else {
		u = addr.JoinPath("apps", url.PathEscape(c.Source), "stream")
		if cursor == "" && c.Recent > 0 {
			q.Set("recent", strconv.Itoa(c.Recent))
		}
		if cursor == "" && !c.Since.IsZero() {
			q.Set("since", strconv.FormatInt(c.Since.UnixNano(), 10))
		}
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
