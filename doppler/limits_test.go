package doppler_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/doppler"
)

var announced = regexp.MustCompile(`^(\d+) messages? dropped: this app is over its limit of (\d+) per second at doppler-0$`)

// told adds up what announcements among a reader's lines say; lines is how many
// others there are.
func (c *reader) told(limit int) (told uint64, lines int) {
	c.t.Helper()
	for _, line := range c.lines {
		m := announced.FindStringSubmatch(line)
		if m == nil {
			lines++
			continue
		}
		n, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil || m[2] != strconv.Itoa(limit) {
			c.t.Errorf("announcement %q, want the limit %d", line, limit)
		}
		told += n
	}
	return told, lines
}

// limited is what the view of sources says of the loudest of several.
func (r *rig) limited(source string) uint64 {
	r.t.Helper()
	_, _, body := r.get(r.StreamAddr(), "/v2/sources")
	var view struct {
		Sources []struct {
			ID      string  `json:"source_id"`
			Share   float64 `json:"share"`
			Limited uint64  `json:"limited"`
			PerSec  float64 `json:"limited_rate"`
		} `json:"sources"`
	}
	if err := json.Unmarshal([]byte(body), &view); err != nil {
		r.t.Fatal(err)
	}
	for i, s := range view.Sources {
		if s.ID == source {
			if s.Limited > 0 && (i > 0 || s.PerSec <= 0 || s.Share <= 0 || s.Share > 1) {
				r.t.Errorf("place %d: %+v", i, s)
			}
			return s.Limited
		}
	}
	return 0
}

// TestSourceLimit: who is over the limit is told so in its own stream, to the
// envelope, also of what was left out last before the Doppler ends; its
// neighbour loses nothing.
func TestSourceLimit(t *testing.T) {
	const limit, loud, quiet = 100, 20_000, 50
	r := start(t, func(c *doppler.Config) { c.SourceLimit, c.SourceBurst = limit, limit/2 })
	read := func(source string) *reader {
		c := r.read("shard_id=nozzle&source_id=" + source)
		c.until(func() bool { return c.hello != nil })
		return c
	}
	l, q := read("loud"), read("quiet")
	r.emitLines("loud", 0, loud)
	r.emitLines("quiet", 0, quiet)
	eventually(t, "the view shows what was announced", func() bool { return r.limited("loud") > 0 })
	r.emitLines("loud", 0, loud) // of this the last is announced at the end
	_, _, metrics := r.get(r.AdminAddr(), "/metrics")
	r.cancel()
	l.until(func() bool { return false })
	q.until(func() bool { return false })
	q.wantLines(0, quiet)
	told, lines := l.told(limit)
	if told+uint64(lines) != 2*loud {
		t.Errorf("got %d lines, told of %d left out, sent were %d", lines, told, 2*loud)
	}
	if lines < limit/2 || lines > loud/2 {
		t.Errorf("%d of %d lines were let in", lines, 2*loud)
	}
	for _, want := range []string{
		fmt.Sprintf("doppler_ingress_dropped_total{cause=\"source_limit\"} %d\n", told),
		fmt.Sprintf("doppler_ingress_envelopes_total %d\n", lines+quiet),
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics have no %s", want)
		}
	}
	if len(l.gaps)+len(q.gaps) != 0 {
		t.Errorf("gaps %v %v", l.gaps, q.gaps)
	}
	r.stop()
}

// TestLimitIsOfTheTypesNamed: what --source-limit-type does not name is not
// limited.
func TestLimitIsOfTheTypesNamed(t *testing.T) {
	const n = 50
	for types, want := range map[string]uint64{"log": 0, "log counter": 10, "counter": 0} {
		r := start(t, func(c *doppler.Config) {
			unread(c)
			c.SourceLimit, c.SourceBurst, c.SourceLimitTypes = 1, n+n-10, strings.Fields(types)
		})
		var envs []*loggregatorv2.Envelope
		for range n {
			envs = append(envs, logLine("app", "line"), &loggregatorv2.Envelope{
				SourceId: "app", Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "c"}},
			})
		}
		r.emit(envs...)
		eventually(t, "all were taken", func() bool {
			_, _, metrics := r.get(r.AdminAddr(), "/metrics")
			return strings.Contains(metrics, fmt.Sprintf("doppler_ingress_envelopes_total %d\n", 2*n-want))
		})
		r.stop()
	}
}

// TestAnnouncementBelongsToItsSource: it has the tags that nozzles sort by,
// and none that name an instance.
func TestAnnouncementBelongsToItsSource(t *testing.T) {
	r := start(t, func(c *doppler.Config) { unread(c); c.SourceLimit = 1 })
	var lines []*loggregatorv2.Envelope
	for range 10 {
		line := logLine("app", "line")
		line.InstanceId = "3"
		line.Tags = map[string]string{"app_name": "shop", "space_name": "prod", "instance_id": "3", "source_type": "APP/PROC/WEB"}
		lines = append(lines, line)
	}
	r.emit(lines...)
	var e loggregatorv2.Envelope
	eventually(t, "it is announced", func() bool {
		_, _, body := r.get(r.StreamAddr(), stream.PathHistory+"app?limit=1")
		_, envs, err := stream.SplitBatch([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		for env := range envelope.Walk(envs) {
			if err := proto.Unmarshal(env, &e); err != nil {
				t.Fatal(err)
			}
		}
		return e.GetTags()["source_type"] == "LGR"
	})
	want := &loggregatorv2.Envelope{
		Timestamp: e.GetTimestamp(), SourceId: "app",
		Tags: map[string]string{"app_name": "shop", "space_name": "prod", "source_type": "LGR", "origin": "loggregator.doppler"},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{
			Payload: []byte("9 messages dropped: this app is over its limit of 1 per second at doppler-0"), Type: loggregatorv2.Log_ERR,
		}},
	}
	if !proto.Equal(&e, want) || time.Since(time.Unix(0, e.GetTimestamp())) > time.Minute {
		t.Errorf("announced %v, want %v", &e, want)
	}
	r.stop()
}
