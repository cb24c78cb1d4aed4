package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// line is the one that is written about a stream that is over.
type line struct {
	Msg, Kind, User, Path, Remote, Reason string
	UserAgent                             string  `json:"user_agent"`
	Duration                              float64 `json:"duration_seconds"`
	Status, Code                          int
	Bytes, Envelopes, Gaps, Dropped       *uint64
}

// TestOneLineForEachStream opens and closes a stream of each kind: by a client of
// UAA that has a token for itself, by a user, and by one who sees everything.
func TestOneLineForEachStream(t *testing.T) {
	ctx := blackbox.Deadline(t)
	cf := platform(ctx, t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 1, Controllers: 1, Access: cf.Access()})
	blackbox.Talk(ctx, t, p.Dopplers[0], func() *loggregatorv2.EnvelopeBatch {
		return &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{{
			Timestamp: time.Now().UnixNano(), SourceId: app,
			Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(payload)}},
		}}}
	})
	base := "http://" + p.Controllers[0].Addrs[pipeline.Public]
	for _, test := range []struct {
		user, kind, token, path string
		status                  int
		read                    func(ctx context.Context, t *testing.T, address, token string)
	}{
		{"robot", "firehose", fakecf.JWT, "/firehose/f", http.StatusSwitchingProtocols, overSocket},
		{"robot", "firehose", fakecf.Opaque, "/firehose/g", http.StatusSwitchingProtocols, overSocket},
		{"anna", "tail", fakecf.JWT, "/apps/" + app + "/stream", http.StatusSwitchingProtocols, overSocket},
		{"nora", "read", fakecf.Opaque, "/v2/read", http.StatusOK, overHTTP},
	} {
		t.Run(test.user+test.path, func(t *testing.T) {
			token := issue(ctx, t, cf, test.user, test.token)
			test.read(ctx, t, base+test.path, token)
			var said []line
			blackbox.Poll(ctx, t, "the line about the stream", func() bool {
				said = linesAbout(t, p.Controllers[0].Log(), test.path)
				return len(said) > 0
			})
			l := said[0]
			if len(said) != 1 || l.User != test.user || l.Kind != test.kind || l.Status != test.status || l.UserAgent != "reader" ||
				!strings.HasPrefix(l.Remote, "127.0.0.1:") || l.Duration <= 0 || l.Code == 0 || l.Reason == "" && l.Code != 1000 {
				t.Errorf("%+v", said)
			}
			if l.Bytes == nil || l.Envelopes == nil || l.Gaps == nil || l.Dropped == nil || *l.Bytes < uint64(len(payload)) || *l.Envelopes == 0 || *l.Dropped != 0 {
				t.Errorf("%+v", l)
			}
			if strings.Contains(p.Controllers[0].Log(), token) {
				t.Error("the token is in the log")
			}
		})
	}
}

func linesAbout(t *testing.T, log, path string) (said []line) {
	t.Helper()
	for text := range strings.Lines(log) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("a line is not JSON: %v: %s", err, text)
		}
		if l.Msg == "stream closed" && l.Path == path {
			said = append(said, l)
		}
	}
	return said
}

// overSocket reads a message with an envelope, and says goodbye.
func overSocket(ctx context.Context, t *testing.T, address, token string) {
	t.Helper()
	conn, err := stream.Dial(ctx, address, stream.DialOptions{
		Header:      http.Header{"Authorization": {"Bearer " + token}, "User-Agent": {"reader"}},
		Subprotocol: stream.Subprotocol,
	})
	if err != nil {
		t.Fatal(err)
	}
	for got := false; !got; {
		b, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got = bytes.Contains(b.Bytes(), []byte(payload))
		b.Release()
	}
	if err := conn.Close(stream.CloseNormal, "enough"); err != nil {
		t.Error(err)
	}
}

// overHTTP reads an envelope of server-sent events, and leaves.
func overHTTP(ctx context.Context, t *testing.T, address, token string) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?log", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "bearer "+token)
	r.Header.Set("User-Agent", "reader")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 2*len(payload))); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
}
