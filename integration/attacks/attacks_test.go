package attacks

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
)

var attacks = []attack{
	{"slow headers", slowHeaders},
	{"half-open connections", halfOpen},
	{"endless header", endlessHeader},
	{"bombs in bodies", bombs},
	{"bombs in messages", deflated},
	{"long query", longQuery},
	{"deep JSON", deepJSON},
	{"many headers", manyHeaders},
}

const refused = `trafficcontroller_edge_refused_total{reason="pending"}`

// slowHeaders is 1,000 connections that send a header of a few bytes now and
// then, and never the last.
func slowHeaders(ctx context.Context, t *testing.T, v *victim) {
	var all sync.WaitGroup
	bound, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	for range 1000 {
		nc := v.dial(ctx, t)
		all.Go(func() { drip(bound, nc) })
	}
	all.Wait()
}

func drip(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	_, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: tc\r\n")
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, err = io.WriteString(nc, "X-A: b\r\n")
		}
	}
}

// manyHeaders is as many connections as may be pending, each with as many short
// headers as there is room for, but the last: they take more room in memory than
// on the wire.
func manyHeaders(ctx context.Context, t *testing.T, v *victim) {
	request := []byte("GET / HTTP/1.1\r\nHost: tc\r\n")
	for i := 0; len(request) < 60<<10; i++ {
		request = fmt.Appendf(request, "%x:\r\n", i)
	}
	var all sync.WaitGroup
	room := make(chan struct{}, 32)
	for range 2000 {
		nc := v.dial(ctx, t)
		room <- struct{}{}
		all.Go(func() {
			_, _ = nc.Write(request) // who is over the limit is closed
			<-room
		})
	}
	all.Wait()
}

// halfOpen is 10,000 connections that say nothing. Those over --max-pending are
// closed, the oldest first.
func halfOpen(ctx context.Context, t *testing.T, v *victim) {
	const n, pending = 10_000, 2048
	before := blackbox.Metric(ctx, t, v.Service, refused)
	plain := &victim{v.Service, nil} // not even a handshake
	for range n {
		plain.dial(ctx, t)
	}
	blackbox.Poll(ctx, t, "the oldest to be closed", func() bool {
		return blackbox.Metric(ctx, t, v.Service, refused)-before >= n-pending
	})
	if now := blackbox.Metric(ctx, t, v.Service, "trafficcontroller_pending_connections"); now > pending {
		t.Errorf("%v connections are pending, the limit is %d", now, pending)
	}
	if status, _ := v.ask(ctx, t, []byte("GET /health HTTP/1.1\r\nHost: tc\r\nConnection: close\r\n\r\n")); status != http.StatusOK {
		t.Errorf("an honest client among them gets %d", status)
	}
}

// endlessHeader would be a gibibyte. What is taken is the limit, and what the
// sockets hold.
func endlessHeader(ctx context.Context, t *testing.T, v *victim) {
	const end, most = 1 << 30, 32 << 20
	nc := v.dial(ctx, t)
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	taken, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: tc\r\nX-Long: ")
	chunk := bytes.Repeat([]byte("x"), 16<<10)
	for err == nil && taken < end {
		var n int
		n, err = nc.Write(chunk)
		taken += n
	}
	t.Logf("cut after %d KiB: %v", taken>>10, err)
	if taken > most {
		t.Errorf("%d bytes were taken, the limit is %d", taken, most)
	}
}

// ask sends bytes and returns the status of the answer; 0 if there is none.
func (v *victim) ask(ctx context.Context, t *testing.T, request []byte) (status int, header http.Header) {
	t.Helper()
	nc := v.dial(ctx, t)
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() { // the answer may come before all is read
		defer close(wrote)
		_, _ = nc.Write(request)
	}()
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	_ = nc.Close()
	<-wrote
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, resp.Header
}

func post(path, header string, body []byte) []byte {
	return append(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: tc\r\n%sContent-Length: %d\r\n\r\n", path, header, len(body)), body...)
}

// bombs are bodies of 60 KiB that are 60 MiB once unpacked, and one that is too
// large as it is.
func bombs(ctx context.Context, t *testing.T, v *victim) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(make([]byte, 60<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/set-cookie", "/api/v1/query", "/apps/a/recentlogs"} {
		for range 20 {
			if status, _ := v.ask(ctx, t, post(path, "Content-Encoding: gzip\r\n", packed.Bytes())); status == 0 {
				t.Errorf("%s: no answer", path)
			}
		}
	}
	if status, _ := v.ask(ctx, t, post("/set-cookie", "", make([]byte, 8<<20))); status != http.StatusRequestEntityTooLarge {
		t.Errorf("8 MiB: %d", status)
	}
}

const handshake = "GET /apps/a/stream HTTP/1.1\r\nHost: tc\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"

const batches = "Sec-WebSocket-Protocol: loggregator.v2.batch\r\n"

// frame is one of a client, with a mask of zeros.
func frame(first byte, payload []byte) []byte {
	b := append([]byte{first, 0x80 | 127}, binary.BigEndian.AppendUint64(nil, uint64(len(payload)))...)
	return append(append(b, 0, 0, 0, 0), payload...)
}

// upgraded sends a frame over a WebSocket and returns what is answered to the
// end of the connection, or until a moment has passed.
func (v *victim) upgraded(ctx context.Context, t *testing.T, header string, message []byte) (answer []byte, open bool) {
	t.Helper()
	nc := v.dial(ctx, t)
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, handshake+header+"\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(nc)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
		t.Fatalf("handshake: %v, %v", resp, err)
	}
	_, _ = nc.Write(message)
	answer, err = io.ReadAll(in)
	var slow net.Error
	if e, ok := err.(net.Error); ok {
		slow = e
	}
	return answer, slow != nil && slow.Timeout()
}

// deflated offers to compress, and sends a compressed message though that was
// not taken up.
func deflated(ctx context.Context, t *testing.T, v *victim) {
	for _, header := range []string{"", batches} {
		if _, open := v.upgraded(ctx, t, header, frame(0xc2, bytes.Repeat([]byte{0xaa}, 1000))); open {
			t.Errorf("%q: a compressed message is taken", header)
		}
	}
}

// longQuery has 100,000 parameters.
func longQuery(ctx context.Context, t *testing.T, v *victim) {
	for _, path := range []string{"/firehose/a", "/apps/a/stream", "/v2/read", "/api/v1/read/a", "/set-cookie"} {
		request := "GET " + path + "?" + strings.Repeat("a=b&", 100_000) + " HTTP/1.1\r\nHost: tc\r\n\r\n"
		if status, _ := v.ask(ctx, t, []byte(request)); status != http.StatusRequestHeaderFieldsTooLarge && status != 0 { // a reset may overtake it
			t.Errorf("%s: %d", path, status)
		}
		short := "GET " + path + "?" + strings.Repeat("a&", 20_000) + " HTTP/1.1\r\nHost: tc\r\n\r\n"
		if status, _ := v.ask(ctx, t, []byte(short)); status < 400 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// deepJSON is as deep as there is room for.
func deepJSON(ctx context.Context, t *testing.T, v *victim) {
	for _, path := range []string{"/set-cookie", "/api/v1/query", "/apps/a/recentlogs"} {
		if status, _ := v.ask(ctx, t, post(path, "Content-Type: application/json\r\n", bytes.Repeat([]byte("["), 60<<10))); status == 0 {
			t.Errorf("%s: no answer", path)
		}
	}
	for _, kind := range []byte{0x81, 0x82} { // text, binary
		for _, header := range []string{"", batches} {
			message := frame(kind, bytes.Repeat([]byte(`{"a":`), 100_000))
			if _, open := v.upgraded(ctx, t, header, message); open && header == batches {
				t.Errorf("kind %x is taken for a message of %q", kind, header)
			}
		}
	}
}
