package doppler_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler"
)

// pastModel is every envelope that was sent, in order.
type pastModel []*loggregatorv2.Envelope

// random appends one of any kind, its time far from that of its neighbours.
func (m *pastModel) random(rng *rand.Rand) {
	e := &loggregatorv2.Envelope{
		SourceId: fmt.Sprintf("app/%d", rng.IntN(4)), InstanceId: strconv.Itoa(len(*m)),
		Timestamp: rng.Int64N(2000) - 1000, Tags: map[string]string{"filler": strings.Repeat("x", rng.IntN(400))},
	}
	name := fmt.Sprintf("metric-%d", rng.IntN(5))
	switch rng.IntN(5) {
	case 0:
		e.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name}}
	case 1:
		e.Message = &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: name}}
	case 2:
		e.Message = &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{name: {}, "cpu": {}}}}
	case 3:
		e.Message = &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: name}}
	default:
		e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(name)}}
	}
	*m = append(*m, e)
}

func names(e *loggregatorv2.Envelope) []string {
	list := []string{e.GetCounter().GetName(), e.GetTimer().GetName()}
	for name := range e.GetGauge().GetMetrics() {
		list = append(list, name)
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// read is what a read by time has to return: instance ids, which are numbers of
// envelopes.
func (m pastModel) read(source string, v url.Values) (ids []string) {
	start, end, limit := number(v, "start", -1<<63), number(v, "end", 1<<63-1), int(number(v, "limit", 100))
	filter := regexp.MustCompile(v.Get("name_filter"))
	var found pastModel
	for _, e := range m {
		named := !v.Has("name_filter") || slices.ContainsFunc(names(e), filter.MatchString)
		typed := v.Get("type") != "log" || e.GetLog() != nil
		if e.SourceId == source && start <= e.Timestamp && e.Timestamp < end && named && typed {
			found = append(found, e)
		}
	}
	slices.SortStableFunc(found, func(a, b *loggregatorv2.Envelope) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	if v.Get("descending") == "true" {
		slices.Reverse(found)
	}
	for i, e := range found {
		if i >= limit && e.Timestamp != found[limit-1].Timestamp {
			break
		}
		ids = append(ids, e.InstanceId)
	}
	return ids
}

func number(v url.Values, name string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(v.Get(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// past asks for what was.
func (r *rig) past(path string) (status int, body []byte) {
	r.t.Helper()
	status, _, text := r.get(r.StreamAddr(), path)
	return status, []byte(text)
}

// byTime asks for a read by time and returns what came.
func (r *rig) byTime(source string, v url.Values) (ids []string) {
	r.t.Helper()
	status, body := r.past(stream.PathHistory + url.PathEscape(source) + "?" + v.Encode())
	batch := &loggregatorv2.EnvelopeBatch{}
	if err := proto.Unmarshal(body, batch); err != nil || status != http.StatusOK {
		r.t.Fatalf("%s: %d, %v, %.200q", v.Encode(), status, err, body)
	}
	for _, e := range batch.GetBatch() {
		ids = append(ids, e.GetInstanceId())
	}
	return ids
}

// keepsAll is a Doppler with a ring that turns over many times, and a recent
// store that keeps all it lets go of.
func keepsAll(c *doppler.Config) {
	unread(c)
	c.RingBytes, c.MaxEnvelopeBytes = 1<<20, 64<<10
	c.RecentBytes, c.RecentLogs, c.RecentMetrics = 64<<20, 1_000_000, 1_000_000
}

func (r *rig) sendAll(m pastModel) {
	r.t.Helper()
	for part := range slices.Chunk(m, 100) {
		r.emit(part...)
	}
}

// TestReadsByTime holds random reads to a model, over ring and recent store.
func TestReadsByTime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := start(t, keepsAll)
	var m pastModel
	for range 6_000 { // several times what the ring holds
		m.random(rng)
	}
	r.sendAll(m)
	for range 150 {
		source := fmt.Sprintf("app/%d", rng.IntN(5)) // the last is not there
		v := url.Values{"order": {"time"}, "limit": {strconv.Itoa(1 + rng.IntN(1000))}}
		if rng.IntN(3) > 0 {
			from := rng.Int64N(2200) - 1100
			v.Set("start", strconv.FormatInt(from, 10))
			v.Set("end", strconv.FormatInt(from+rng.Int64N(500), 10))
		}
		if rng.IntN(2) == 0 {
			v.Set("descending", "true")
		}
		switch rng.IntN(4) {
		case 0:
			v.Set("name_filter", fmt.Sprintf("^metric-%d|cpu$", rng.IntN(6)))
		case 1:
			v.Set("type", "log")
		}
		if got, want := r.byTime(source, v), m.read(source, v); !slices.Equal(got, want) {
			t.Fatalf("%s?%s: %d envelopes, want %d", source, v.Encode(), len(got), len(want))
		}
	}
	r.checkHeld(m)
}

// checkHeld holds what the Doppler says of its sources to a model.
func (r *rig) checkHeld(m pastModel) {
	r.t.Helper()
	var said struct {
		Doppler string
		Limits  struct {
			Count, Bytes int64
			Age          string
		}
		Sources map[string]struct{ Count, Expired, Oldest, Newest int64 }
	}
	status, body := r.past(strings.TrimSuffix(stream.PathHistory, "/"))
	if err := json.Unmarshal(body, &said); err != nil || status != http.StatusOK {
		r.t.Fatalf("%d, %v: %.200q", status, err, body)
	}
	if said.Doppler != "doppler-0" || said.Limits.Count != 1_000_000 || said.Limits.Bytes != 65<<20 || said.Limits.Age != "0s" {
		r.t.Errorf("said %+v", said)
	}
	sum := int64(0)
	for id, s := range said.Sources {
		of := slices.DeleteFunc(slices.Clone(m), func(e *loggregatorv2.Envelope) bool { return e.SourceId != id })
		sum += s.Count
		if s.Count != int64(len(of)) || s.Expired != 0 || s.Newest != of[len(of)-1].Timestamp || s.Oldest != of[0].Timestamp {
			r.t.Errorf("%s: %+v, want %d from %d to %d", id, s, len(of), of[0].Timestamp, of[len(of)-1].Timestamp)
		}
	}
	if sum != int64(len(m)) {
		r.t.Errorf("%d are held, want %d", sum, len(m))
	}
}

// TestWhatIsOverTheLimitExpires: what a source loses is counted.
func TestWhatIsOverTheLimitExpires(t *testing.T) {
	r := start(t, func(c *doppler.Config) {
		keepsAll(c)
		c.RecentLogs = 10
	})
	var m pastModel
	for i := range 10_000 {
		m = append(m, timed("busy", i))
	}
	r.sendAll(append(pastModel{timed("quiet", 0)}, m...))
	busy := r.settled("busy")
	if all := len(r.allByTime("busy")); busy.Count != all || busy.Count+busy.Expired != 10_000 || busy.Expired == 0 || busy.Newest != 9999 {
		t.Errorf("said %+v, %d can be read", busy, all)
	}
	if got := r.byTime("quiet", url.Values{"order": {"time"}}); len(got) != 1 {
		t.Errorf("the quiet one has %v", got)
	}
}

// held is what a Doppler says of a source.
type held struct{ Count, Expired, Oldest, Newest int }

// settled waits until the ring evicts no more, and returns what is held of one
// source.
func (r *rig) settled(source string) (h held) {
	r.t.Helper()
	last := held{Count: -1}
	for deadline := time.Now().Add(20 * time.Second); h != last; time.Sleep(50 * time.Millisecond) {
		last = h
		var said struct{ Sources map[string]held }
		_, body := r.past("/v2/history?source_id=nobody&source_id=" + source)
		if err := json.Unmarshal(body, &said); err != nil || len(said.Sources) != 1 || time.Now().After(deadline) {
			r.t.Fatalf("%v: %s", err, body)
		}
		h = said.Sources[source]
	}
	return h
}

// allByTime reads a source from its oldest on, page by page.
func (r *rig) allByTime(source string) (all []string) {
	r.t.Helper()
	for from := int64(-1 << 63); ; {
		got := r.byTime(source, url.Values{"order": {"time"}, "limit": {"1000"}, "start": {strconv.FormatInt(from, 10)}})
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
		last, err := strconv.ParseInt(got[len(got)-1], 10, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		from = last + 1
	}
}

// timed is line number i, at that time.
func timed(source string, i int) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		SourceId: source, Timestamp: int64(i), InstanceId: strconv.Itoa(i),
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(strings.Repeat("x", 300))}},
	}
}

// TestManyOfOneTime: a reader that asks for what is after the last timestamp it
// got must have got all of that; when it cannot, the answer says so.
func TestManyOfOneTime(t *testing.T) {
	r := start(t, keepsAll)
	var m pastModel
	for range 15_000 {
		m = append(m, timed("s", 7))
	}
	r.sendAll(m)
	v := url.Values{"order": {"time"}, "limit": {"1"}}
	if got := r.byTime("s", v); len(got) != 15_000 {
		t.Errorf("%d came, want all", len(got))
	}
	for range 15_000 {
		m = append(m, timed("s", 7))
	}
	r.sendAll(m[15_000:])
	_, body := r.past(stream.PathHistory + "s?" + v.Encode())
	meta, _, err := stream.SplitBatch(body)
	if err != nil {
		t.Fatal(err)
	}
	b := &streampb.Batch{}
	if err := stream.UnmarshalMeta(meta, b); err != nil {
		t.Fatal(err)
	}
	if len(b.GetGaps()) != 1 || b.GetGaps()[0].GetReason().String() != "HISTORY_LIMIT" {
		t.Errorf("an answer that is cut says %v", b)
	}
}

// TestAge: what is older than the limit is not served of the past.
func TestAge(t *testing.T) {
	r := start(t, func(c *doppler.Config) {
		keepsAll(c)
		c.RecentAge = time.Hour
	})
	now := time.Now()
	r.emit(timed("gone", 1), timed("s", int(now.Add(-2*time.Hour).UnixNano())), timed("s", int(now.UnixNano())))
	if got := r.byTime("s", url.Values{"order": {"time"}}); len(got) != 1 {
		t.Errorf("by time: %v", got)
	}
	_, body := r.past("/v2/history/s?limit=10")
	_, records, err := stream.SplitBatch(body)
	if err != nil || strings.Count(string(records), "xxx") == 0 || len(records) > 500 {
		t.Errorf("the newest: %d bytes, %v", len(records), err)
	}
	_, body = r.past("/v2/history")
	if s := string(body); !strings.Contains(s, `"age":"1h0m0s"`) || !strings.Contains(s, `"s":`) || strings.Contains(s, `"gone":`) {
		t.Errorf("said %s", s)
	}
}

func TestBadReadsByTime(t *testing.T) {
	r := start(t, unread)
	for query, says := range map[string]string{
		"limit=20001": "limit \"20001\" is not a number from 0 to 20000", "limit=-1": "0 to 20000", "limit=x": "limit",
		"start=2&end=1": "start 2 is after end 1", "start=soon": "start", "end=9223372036854775808": "end",
		"name_filter=(": "name_filter", "name_filter=" + strings.Repeat("x", 1025): "the limit is 1024", "type=trace": "trace",
	} {
		status, body := r.past("/v2/history/s?order=time&" + query)
		if status != http.StatusBadRequest || !strings.Contains(string(body), says) {
			t.Errorf("%.50s: %d %q, want 400 and %q", query, status, body, says)
		}
	}
	if status, body := r.past("/v2/history/s?order=size"); status != http.StatusBadRequest || !strings.Contains(string(body), "time") {
		t.Errorf("another order: %d %q", status, body)
	}
}
