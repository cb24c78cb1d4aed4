package api

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Limits of what a query may ask for.
const (
	maxSubscription = 256 // bytes
	maxSourceID     = 256 // bytes
	maxSelectors    = 1000
	maxName         = 1024 // bytes
)

// FirehoseQuery is a request for the Firehose.
type FirehoseQuery struct {
	Client
	Subscription string
	Selectors    url.Values // class, type, source_id, name; checked
	Cursor       string     // checked
	Session      stream.Session
	Acking       bool // the client itself acks
	Old          bool // framing
}

// TailQuery is a request for the tail of one source.
type TailQuery struct {
	Client
	Source string
	Mask   envelope.ClassMask
	Names  []string
	Recent int
	Whole  bool             // Recent is a limit, not what was asked for
	Since  int64            // unix nanoseconds; 0 for none
	Cursor *streampb.Cursor // nil for none
	Old    bool             // framing; Source and Client are all that is set
}

// Client is who asks.
type Client struct {
	Remote    string // address, with the port if it is known
	Forwarded string // what trusted proxies say of it
	UserAgent string
	User      string // id that UAA knows, or that of a client of UAA; empty if it is not known
	Leave     Leave  // to read; nil unless for a stream of this package
	Path      string
	URL       string // with the query
}

// Origin is where a request comes from.
type Origin struct {
	Remote    string // address, with the port if it is known
	Scheme    string // http or https
	Forwarded bool   // a trusted proxy sent it
}

// ClientOf says who sends a request, but for the user.
func (a *API) ClientOf(r *http.Request) Client {
	from := a.cfg.From(r)
	c := Client{Remote: from.Remote, UserAgent: r.UserAgent(), Path: r.URL.EscapedPath(), URL: r.URL.RequestURI()}
	if from.Forwarded {
		c.Forwarded = strings.Join(r.Header.Values("X-Forwarded-For"), ", ")
	}
	return c
}

// known refuses parameters that would be silently ignored.
func known(v url.Values, names ...string) error {
	for key := range v {
		if !slices.Contains(names, key) {
			return fmt.Errorf("parameter %.100q is not known; there are %v", key, names)
		}
	}
	return nil
}

// selectors checks type, source_id and name.
func selectors(v url.Values) (envelope.ClassMask, error) {
	for _, key := range []string{"source_id", "name"} {
		if n := len(v[key]); n > maxSelectors {
			return 0, fmt.Errorf("%d values of %s, the limit is %d", n, key, maxSelectors)
		}
		for _, s := range v[key] {
			if len(s) > maxName {
				return 0, fmt.Errorf("a value of %s has %d bytes, the limit is %d", key, len(s), maxName)
			}
		}
	}
	return envelope.MaskOf(v["type"]...)
}

// The parameters of the batch framing.
var (
	firehoseParameters = []string{"type", "source_id", "name", "cursor", "ack", "session"}
	tailParameters     = []string{"type", "name", "recent", "since", "cursor"}
)

func parseFirehose(r *http.Request) (q FirehoseQuery, err error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("the query is malformed: %w", err)
	}
	if err := known(v, firehoseParameters...); err != nil {
		return q, err
	}
	if q.Subscription, err = r.PathValue("subscription"), checkSubscription(r); err != nil {
		return q, err
	}
	if _, err := selectors(v); err != nil {
		return q, err
	}
	q.Selectors = url.Values{"type": v["type"], "source_id": v["source_id"], "name": v["name"]}
	q.Cursor = v.Get("cursor")
	if _, err := stream.DecodeCursor(q.Cursor); q.Cursor != "" && err != nil {
		return q, err
	}
	if q.Session, err = stream.ParseSession(v.Get("session")); err != nil {
		return q, err
	}
	switch ack := v.Get("ack"); ack {
	case "", "auto":
	case "client":
		q.Acking = true
	default:
		return q, fmt.Errorf("ack %.100q is not known; use auto or client", ack)
	}
	return q, nil
}

func checkSubscription(r *http.Request) error {
	if n := len(r.PathValue("subscription")); n > maxSubscription {
		return fmt.Errorf("the subscription id has %d bytes, the limit is %d", n, maxSubscription)
	}
	return nil
}

func checkSource(r *http.Request) error {
	if n := len(r.PathValue("id")); n > maxSourceID {
		return fmt.Errorf("the source id has %d bytes, the limit is %d", n, maxSourceID)
	}
	return nil
}

func (a *API) parseTail(r *http.Request) (q TailQuery, err error) {
	maxRecent := a.cfg.MaxRecent
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("the query is malformed: %w", err)
	}
	if err := known(v, tailParameters...); err != nil {
		return q, err
	}
	if q.Source, err = r.PathValue("id"), checkSource(r); err != nil {
		return q, err
	}
	if q.Mask, err = selectors(v); err != nil {
		return q, err
	}
	q.Names = v["name"]
	if s := v.Get("recent"); s != "" {
		q.Recent, err = strconv.Atoi(s)
		if err != nil || q.Recent < 0 || q.Recent > maxRecent {
			return q, fmt.Errorf("recent %.100q is not a number from 0 to %d", s, maxRecent)
		}
	}
	if s := v.Get("since"); s != "" {
		if q.Since, err = parseSince(s, time.Now()); err != nil {
			return q, err
		}
		if q.Recent == 0 {
			q.Recent, q.Whole = maxRecent, true
		}
	}
	if s := v.Get("cursor"); s != "" {
		if q.Cursor, err = stream.DecodeCursor(s); err != nil {
			return q, err
		}
	}
	return q, nil
}

// parseSince reads a duration before now, a time of RFC 3339, or unix
// nanoseconds.
func parseSince(s string, now time.Time) (int64, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return max(now.Add(-d).UnixNano(), 1), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return max(t.UnixNano(), 1), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 && n < math.MaxInt64 {
		return n, nil
	}
	return 0, fmt.Errorf("since %.100q is not a duration such as 10m, a time such as 2026-01-02T15:04:05Z, or unix nanoseconds", s)
}
