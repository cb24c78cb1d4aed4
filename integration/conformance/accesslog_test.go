package conformance

import (
	"context"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// lineCase is one observed line of the security log.
type lineCase struct {
	Case, Request, Line string
	Headers             map[string]string
	RemoteAddr          string `json:"remote_addr"`
}

var receiptTime = regexp.MustCompile(`rt=\d{13} `)

// TestAccessLog sends the requests and reads what the Traffic Controller has
// written. Time, the client's own address and the port are of this run.
func TestAccessLog(t *testing.T) {
	const file = "access_log.json"
	ctx := deadline(t)
	here.answers(ctx, t)
	for i, c := range vectors(t, "../../trafficcontroller/internal/accesslog/testdata/"+file, func(c lineCase) string { return c.Case }) {
		t.Run(c.Case, func(t *testing.T) {
			before := len(securityLog(t))
			local := c.send(ctx, t)
			got := receiptTime.ReplaceAllString(securityLog(t)[before:], "rt=1700000000123 ")
			var notes []string
			if strings.HasPrefix(c.RemoteAddr, "[") {
				notes = append(notes, "a client with an IPv6 address: the listener is on 127.0.0.1")
			}
			var d []difference
			if want := c.want(t, local); got != want {
				d = append(d, difference{"line", want, got})
			}
			all.judge(t, file, i, d, notes...)
		})
	}
}

func securityLog(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(here.security)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// send sends the request of a case and returns the client's address.
func (c lineCase) send(ctx context.Context, t *testing.T) string {
	t.Helper()
	method, target, _ := strings.Cut(c.Request, " ")
	answer := do(ctx, t, here.main, exchange{Method: method, Path: strings.TrimPrefix(target, "http://h"), RequestHeaders: c.Headers})
	defer answer.conn.Close()
	return answer.local()
}

// want is the recorded line with the addresses of this run.
func (c lineCase) want(t *testing.T, local string) string {
	t.Helper()
	line := c.Line + "\n"
	for old, now := range map[[3]string]string{
		{c.RemoteAddr, "src=", " spt="}:    local,
		{"10.0.1.2:8081", "dst=", " dpt="}: "10.0.1.2:" + port(t, here.main.Addrs[pipeline.Public]),
	} {
		host, number, err := net.SplitHostPort(old[0])
		if err != nil {
			t.Fatal(err)
		}
		newHost, newNumber, err := net.SplitHostPort(now)
		if err != nil {
			t.Fatal(err)
		}
		line = strings.Replace(line, old[1]+host+old[2]+number, old[1]+newHost+old[2]+newNumber, 1)
	}
	return line
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
