package isolation

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.FakeCF))
}

const (
	apps, users = 8, 5
	recheck     = time.Second
	// settled is after how long nobody may still read what was withdrawn: a
	// recheck, an answer at hand then (4 s), and time for a busy machine.
	settled = recheck + 4*time.Second + 5*time.Second
)

func app(i int) string { return fmt.Sprintf("%08x-58cc-4372-a567-0e02b2c3d479", 0xabc00000+i) }

// mark is in all that an app says. Its length makes its base64 the same wherever
// it is the beginning.
func mark(i int) string { return fmt.Sprintf("said by app %06d", i) }

// world is a pipeline to which all apps log, and who may read which of them.
type world struct {
	*pipeline.Pipeline
	cf     *pipeline.CF
	grants [users][apps]bool
	tokens [users]string
	marks  [apps][2][]byte // as it is, and in base64
	entry  atomic.Pointer[streampb.CursorEntry]

	got  [kinds]atomic.Int64 // answers with something of the user's own in them
	mu   sync.Mutex
	leak []string
}

// kind is a way to read.
type kind int

const (
	oldTail kind = iota
	newTail
	resumed
	recentLogs
	metrics
	cacheRead
	meta
	query
	gateway
	oddID
	kinds
)

func (k kind) String() string {
	return [...]string{
		"old tail", "new tail", "tail with a cursor", "recentlogs", "containermetrics", "read", "meta", "query", "/v2/read", "odd id",
	}[k]
}

func begin(ctx context.Context, t *testing.T, rng *rand.Rand, access ...string) *world {
	t.Helper()
	cf, err := pipeline.StartCF(blackbox.Programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cf.Kill)
	w := &world{cf: cf}
	for u := range users {
		for a := range apps {
			w.grants[u][a] = rng.IntN(3) == 0
		}
		w.grants[u][rng.IntN(apps)] = true
	}
	for a := range apps {
		w.marks[a] = [2][]byte{[]byte(mark(a)), []byte(base64.StdEncoding.EncodeToString([]byte(mark(a))))}
	}
	if len(access) == 0 {
		access = append(cf.Access(), "--access-recheck", recheck.String(), "--access-cache", "1s")
	}
	w.know(ctx, t)
	for u := range users {
		var said struct{ Token string }
		ask := map[string]any{"user": name(u), "kind": []string{fakecf.JWT, fakecf.Opaque}[u%2], "seconds": 3600}
		if err := cf.Control(ctx, http.MethodPost, "/tokens", ask, &said); err != nil {
			t.Fatal(err)
		}
		w.tokens[u] = said.Token
	}
	w.Pipeline = blackbox.Start(t, pipeline.Config{Dopplers: 2, Controllers: 1, Access: access})
	for i, d := range w.Dopplers {
		blackbox.Talk(ctx, t, d, func() *loggregatorv2.EnvelopeBatch { return said(i) })
	}
	return w
}

func name(u int) string { return fmt.Sprint("user-", u) }

// know tells UAA and Cloud Controller who may read what. Tokens stay.
func (w *world) know(ctx context.Context, t *testing.T) {
	t.Helper()
	var s fakecf.State
	if err := w.cf.Control(ctx, http.MethodGet, "/state", nil, &s); err != nil {
		t.Fatal(err)
	}
	s.Apps, s.Users = nil, nil
	for a := range apps {
		s.Apps = append(s.Apps, fakecf.Resource{GUID: app(a), Name: fmt.Sprint("app-", a)})
	}
	for u := range users {
		of := fakecf.User{Name: name(u), Scopes: []string{"cloud_controller.read"}}
		for a := range apps {
			if w.grants[u][a] {
				of.Apps = append(of.Apps, app(a))
			}
		}
		s.Users = append(s.Users, of)
	}
	if err := w.cf.Control(ctx, http.MethodPut, "/state", s, nil); err != nil {
		t.Fatal(err)
	}
}

// said is a log and a container metric of each app, old enough for reads that wait
// for late arrivals.
func said(instance int) *loggregatorv2.EnvelopeBatch {
	gauges := map[string]*loggregatorv2.GaugeValue{}
	for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		gauges[name] = &loggregatorv2.GaugeValue{Unit: "bytes", Value: 1}
	}
	b := &loggregatorv2.EnvelopeBatch{}
	for a := range apps {
		for _, m := range []*loggregatorv2.Envelope{
			{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(mark(a))}}},
			{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: gauges}}},
		} {
			m.Timestamp, m.SourceId, m.InstanceId = time.Now().Add(-5*time.Second).UnixNano(), app(a), strconv.Itoa(instance)
			m.Tags = map[string]string{"mark": mark(a)}
			b.Batch = append(b.Batch, m)
		}
	}
	return b
}

// check looks for what is not the user's in something that came.
func (w *world) check(u int, k kind, what string, came []byte) {
	own := false
	for a := range apps {
		has := bytes.Contains(came, w.marks[a][0]) || bytes.Contains(came, w.marks[a][1])
		if k == meta || k == metrics {
			has = has || bytes.Contains(came, []byte(app(a)))
		}
		own = own || has && w.grants[u][a]
		if has && !w.grants[u][a] {
			w.mu.Lock()
			w.leak = append(w.leak, fmt.Sprintf("%s, %s: %s got something of app %d", k, what, name(u), a))
			w.mu.Unlock()
		}
	}
	if own {
		w.got[k].Add(1)
	}
}

// get asks and checks what comes, within a time, for it may not end.
func (w *world) get(ctx context.Context, u int, k kind, path string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.Replace(w.URL(0), "ws", "http", 1)+path, nil)
	if err != nil {
		return
	}
	r.Header.Set("Authorization", "bearer "+w.tokens[u])
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return // too late, on a busy machine
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // what came until the end counts
	w.check(u, k, path, append(body, fmt.Sprint(resp.Header)...))
}

// tail reads a stream until ctx ends or it is closed.
func (w *world) tail(ctx context.Context, u int, k kind, path string) {
	o := stream.DialOptions{Header: http.Header{"Authorization": {"bearer " + w.tokens[u]}}}
	if k != oldTail {
		o.Subprotocol = stream.Subprotocol
	}
	conn, err := stream.Dial(ctx, w.URL(0)+path, o)
	if err != nil {
		w.check(u, k, path, []byte(err.Error()))
		return
	}
	defer conn.CloseNow()
	for {
		b, err := conn.Read(ctx)
		if err != nil {
			w.check(u, k, path, []byte(err.Error()))
			return
		}
		w.check(u, k, path, b.Bytes())
		w.learn(k, b.Bytes())
		b.Release()
	}
}

// learn takes the place of a Doppler's log from a batch, for cursors that others
// use.
func (w *world) learn(k kind, msg []byte) {
	meta, _, err := stream.SplitBatch(msg)
	var b streampb.Batch
	if k == oldTail || err != nil || stream.UnmarshalMeta(meta, &b) != nil || b.GetPosition() == nil {
		return
	}
	w.entry.Store(&streampb.CursorEntry{Doppler: b.GetPosition().GetDoppler(), Epoch: b.GetPosition().GetEpoch()})
}

// cursor is the beginning of a Doppler's log, as somebody else has learned of it.
func (w *world) cursor() string {
	e := w.entry.Load()
	if e == nil {
		return ""
	}
	return "&cursor=" + url.QueryEscape(stream.EncodeCursor(&streampb.Cursor{Entries: []*streampb.CursorEntry{e}}))
}

// act is one random thing that a user does with an app, own or not.
func (w *world) act(ctx context.Context, rng *rand.Rand, u int) {
	a, b := app(rng.IntN(apps)), app(rng.IntN(apps))
	short, cancel := context.WithTimeout(ctx, time.Second/2)
	defer cancel()
	switch k := kind(rng.IntN(int(kinds))); k {
	case oldTail:
		w.tail(short, u, k, "/apps/"+a+"/stream")
	case newTail:
		w.tail(short, u, k, "/apps/"+a+"/stream?recent=20")
	case resumed:
		w.tail(short, u, k, "/apps/"+a+"/stream?type=log"+w.cursor())
	case recentLogs:
		w.get(ctx, u, k, "/apps/"+a+"/recentlogs")
	case metrics:
		w.get(ctx, u, k, "/apps/"+a+"/containermetrics")
	case cacheRead:
		w.get(ctx, u, k, "/api/v1/read/"+a+"?descending=true")
	case meta:
		w.get(ctx, u, k, "/api/v1/meta")
	case query:
		of := []string{`cpu{source_id="` + a + `"}`, `cpu{source_id=~".*"}`, `cpu{source_id!="x"}`, `cpu`, `cpu{source_id="` + a + `"} or cpu{source_id="` + b + `"}`}
		w.get(ctx, u, k, "/api/v1/query?query="+url.QueryEscape(of[rng.IntN(len(of))]))
	case gateway:
		of := []string{"", "&source_id=" + a, "&source_id=" + a + "&source_id=" + b, "&source_id=", "&source_id=*"}
		shard := []string{"", "&shard_id=shared"}[rng.IntN(2)] // with all others who name it
		w.get(short, u, k, "/v2/read?log&gauge"+of[rng.IntN(len(of))]+shard)
	case oddID:
		of := []string{strings.ToUpper(a), a + "%2F", a + "%00", a + "/", "%2F" + a, b + "%2F..%2F" + a, b + "%3Fx%3D" + a, "." + a, a + "%20", a + "," + b}
		id := of[rng.IntN(len(of))]
		w.get(ctx, u, k, "/apps/"+id+"/recentlogs")
		w.get(ctx, u, k, "/api/v1/read/"+id)
		w.get(ctx, u, k, "/v2/read?log&source_id="+id)
		w.tail(short, u, k, "/apps/"+id+"/stream?recent=5")
	}
}

// round has all users act at once for a while, with grants as they are.
func (w *world) round(ctx context.Context, rng *rand.Rand, lasts time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	var g sync.WaitGroup
	for u := range users {
		for range 3 {
			rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
			g.Go(func() {
				for ctx.Err() == nil {
					w.act(ctx, rng, u)
				}
			})
		}
	}
	g.Wait()
}

// TestIsolation plays rounds, and takes grants away and gives others between them.
func TestIsolation(t *testing.T) {
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	w := begin(ctx, t, rng)
	rounds, lasts := 2, 5*time.Second
	if blackbox.Full {
		rounds, lasts = 12, 15*time.Second
	}
	for i := range rounds {
		w.round(ctx, rng, lasts)
		if i < rounds-1 {
			w.change(ctx, t, rng)
		}
	}
	own := func(k kind) bool { return w.got[k].Load() > 0 }
	w.until(ctx, rng, own)
	text := make([]string, 0, kinds)
	for k := range kinds {
		text = append(text, fmt.Sprint(w.got[k].Load(), " by ", k))
		if k < oddID && !own(k) {
			t.Errorf("nobody got anything of their own by %s", k)
		}
	}
	t.Log("answers with something of the user's own: " + strings.Join(text, ", "))
	slices.Sort(w.leak)
	for _, l := range slices.Compact(w.leak) {
		t.Error(l)
	}
}

// change gives every user another set of apps while their tails are open. What
// they still get in the time that it may take is not looked at; then the tails of
// what was taken have to be closed, and those of what stayed open.
func (w *world) change(ctx context.Context, t *testing.T, rng *rand.Rand) {
	t.Helper()
	type held struct {
		u, a int
		conn *stream.Conn
		end  chan struct{}
	}
	var tails []held
	for u := range users {
		for a := range apps {
			if !w.grants[u][a] {
				continue
			}
			o := stream.DialOptions{Header: http.Header{"Authorization": {"bearer " + w.tokens[u]}}, Subprotocol: stream.Subprotocol}
			conn, err := stream.Dial(ctx, w.URL(0)+"/apps/"+app(a)+"/stream", o)
			if err != nil {
				t.Fatal(err)
			}
			h := held{u, a, conn, make(chan struct{})}
			tails = append(tails, h)
			go func() {
				defer close(h.end)
				for {
					b, err := conn.Read(ctx)
					if err != nil {
						return
					}
					b.Release()
				}
			}()
		}
	}
	before := w.grants
	for u := range users {
		for a := range apps {
			if rng.IntN(2) == 0 {
				w.grants[u][a] = rng.IntN(3) == 0
			}
		}
		w.grants[u][rng.IntN(apps)] = true
	}
	w.know(ctx, t)
	select {
	case <-time.After(settled):
	case <-ctx.Done():
	}
	closed := 0
	for _, h := range tails {
		stays := w.grants[h.u][h.a]
		select {
		case <-h.end:
			closed++
			if stays {
				t.Errorf("the tail of %s of app %d was closed, though it was not taken", name(h.u), h.a)
			}
		default:
			if !stays {
				t.Errorf("the tail of %s of app %d goes on, though it was taken", name(h.u), h.a)
			}
		}
		h.conn.CloseNow()
		<-h.end
	}
	t.Logf("grants changed: %v for %v; %d of %d tails closed", w.grants, before, closed, len(tails))
}

// TestIsolationFails shows that the check finds what is not the user's.
func TestIsolationFails(t *testing.T) {
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	w := begin(ctx, t, rng, "--disable-access-control")
	others := func(k kind) bool {
		return slices.ContainsFunc(w.leak, func(l string) bool { return strings.HasPrefix(l, k.String()+", ") })
	}
	w.until(ctx, rng, others)
	for k := range oddID {
		if !others(k) {
			t.Errorf("without access control nobody got anything of others by %s", k)
		}
	}
}

// until plays rounds, but not for ever, until something has come of every way to
// read but odd ids.
func (w *world) until(ctx context.Context, rng *rand.Rand, came func(kind) bool) {
	for range 15 {
		missing := false
		for k := range oddID {
			missing = missing || !came(k)
		}
		if !missing {
			return
		}
		w.round(ctx, rng, 2*time.Second)
	}
}
