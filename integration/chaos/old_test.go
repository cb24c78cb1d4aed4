package chaos

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/load"
)

// oldReader is a reader of the old framing, which knows no acks and no place to
// come back to.
type oldReader struct {
	*watch
	rate    float64  // envelopes per second it takes at most; 0: no limit
	told    uint64   // missed, as it was told
	notes   []string // lines of the Traffic Controller's own
	mayNote int      // so many of them are no fault
}

// startOld reads a path until the test ends.
func startOld(ctx context.Context, t *testing.T, name, url string) *oldReader {
	t.Helper()
	return startOldAt(ctx, t, name, url, 0)
}

// startOldAt reads so many envelopes per second at most.
func startOldAt(ctx context.Context, t *testing.T, name, url string, rate float64) *oldReader {
	t.Helper()
	o := &oldReader{watch: newWatch(name), rate: rate}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			o.connect(ctx, url)
			time.Sleep(oldPause)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	o.until(ctx, t, "connected", func() bool { return o.connects > 0 })
	return o
}

// oldPause is how long it waits before it comes back, as long as others do.
const oldPause = 150 * time.Millisecond

func (o *oldReader) connect(ctx context.Context, url string) {
	conn, err := stream.Dial(ctx, url, stream.DialOptions{SocketBuffer: socketBuffer})
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, conn.CloseNow)
	defer stop()
	o.connected()
	began := time.Now()
	for err == nil {
		var b *stream.Buffer
		if b, err = conn.Read(context.Background()); err == nil {
			o.take(b.Bytes())
			b.Release()
			o.pace(began)
		}
	}
	conn.CloseNow()
	o.lost(err)
}

// pace waits as long as the rate asks for.
func (o *oldReader) pace(began time.Time) {
	o.mu.Lock()
	rate, total := o.rate, o.total
	o.mu.Unlock()
	if rate > 0 {
		time.Sleep(time.Until(began.Add(time.Duration(float64(total) / rate * float64(time.Second)))))
	}
}

// hurry lifts the limit of the rate.
func (o *oldReader) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rate = 0
}

// Fields of the old protocol: those of events.Envelope, LogMessage and
// CounterEvent.
const (
	oldLog, oldLogMessage      = 8, 1
	oldLogType                 = 5
	oldCounter, oldCounterName = 10, 1
	oldCounterDelta            = 2
)

func (o *oldReader) take(envelope []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.changed.Broadcast()
	if counter := field(envelope, oldCounter); counter != nil {
		if name := string(field(counter, oldCounterName)); name != "TruncatingBuffer.DroppedMessages" {
			o.failf("was told a counter %s", name)
			return
		}
		delta, _ := protowire.ConsumeVarint(field(counter, oldCounterDelta))
		o.told += delta
		return
	}
	log := field(envelope, oldLog)
	text := field(log, oldLogMessage)
	if string(field(log, oldLogType)) == "LGR" {
		if o.notes = append(o.notes, string(text)); len(o.notes) > o.mayNote {
			o.failf("was told: %s", text)
		}
		return
	}
	const digits = 20
	packed, err := strconv.ParseUint(string(text[max(0, len(text)-digits):]), 10, 64)
	if err != nil {
		o.failf("an envelope nobody here made: %q", envelope)
		return
	}
	if o.ids.Add(load.Unpack(packed)) {
		o.total++
	} else {
		o.again++
	}
}

// field returns the value of the first field with a number, as it is on the
// wire without the length; nil if there is none.
func field(message []byte, number protowire.Number) []byte {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil
		}
		message = message[n:]
		n = protowire.ConsumeFieldValue(num, typ, message)
		if n < 0 {
			return nil
		}
		if num == number {
			value := message[:n]
			if typ == protowire.BytesType {
				value, _ = protowire.ConsumeBytes(value)
			}
			return value
		}
		message = message[n:]
	}
	return nil
}

// inSockets is how many envelopes of the reference size, in the old framing, may
// lie in the sockets between the Traffic Controller and a reader behind a proxy:
// four buffers, which the kernel doubles, and what the proxy holds.
const inSockets = (4*2*socketBuffer + 16<<10) / 500

// settled sends until the newest come, and checks that no more is missing before
// them than what was in the sockets that broke.
func (o *oldReader) settled(ctx context.Context, t *testing.T, send func() (sent uint64, newest []load.ID)) {
	t.Helper()
	var sent uint64
	for came := false; !came; {
		var newest []load.ID
		sent, newest = send()
		patient, cancel := context.WithTimeout(ctx, time.Second)
		err := o.wait(patient, func() bool {
			came = !slices.ContainsFunc(newest, func(id load.ID) bool { return !o.ids.Has(id) })
			return came
		})
		cancel()
		if err != nil && patient.Err() == nil || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	broken := uint64(o.connects - 1)
	t.Logf("%s: %d of %d, %d of them again, told %d missed, %d connections broken: %v", o.name, o.total, sent, o.again, o.told, broken, o.closes)
	if missing := sent - o.total; missing > broken*inSockets {
		t.Errorf("%s: %d are missing, which is more than the sockets of %d connections hold", o.name, missing, broken)
	}
}
