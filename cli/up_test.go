package cli_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pipeline is a lgr up and where it listens.
type pipeline struct {
	*process
	controller, ingress string
}

func startPipeline(t *testing.T, args ...string) *pipeline {
	t.Helper()
	p := &pipeline{process: start(t, append([]string{"up", "--random-ports"}, args...)...)}
	p.out.wait(t, "Ctrl-C stops everything.\n", 1)
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(p.out.String())
		if m == nil {
			t.Fatalf("no %s in %s", pattern, p.out.String())
		}
		return m[1]
	}
	p.controller = find(`export LGR_ADDR=(\S+)`)
	p.ingress = find(`export LGR_DOPPLER_ADDR=(\S+)`)
	return p
}

// finish stops the pipeline.
func (p *pipeline) finish(t *testing.T) {
	t.Helper()
	p.stop()
	if code := p.end(t); code != 0 {
		t.Errorf("up: exit %d, stderr %s", code, p.err.String())
	}
	p.err.wait(t, "-- everything has stopped\n", 1)
}

func TestLinesGoThroughThePipeline(t *testing.T) {
	const lines = 3000
	up := startPipeline(t, "--dopplers", "2")
	logs := start(t, "logs", "my-app", "-n", "5000", "--addr", up.controller) // history, if it comes late
	fire := start(t, "firehose", "--addr", up.controller, "--source-id", "my-app", "--json")
	var text strings.Builder
	for n := range lines {
		fmt.Fprintf(&text, "line %d\n", n)
	}
	code, _, said := lgr(t.Context(), strings.NewReader(text.String()), "emit", "-s", "my-app", "--addr", up.ingress)
	if code != 0 {
		t.Fatalf("emit: exit %d, %s", code, said)
	}
	last := fmt.Sprintf("line %d", lines-1)
	logs.out.wait(t, last+"\n", 1)
	fire.out.wait(t, last+`"`, 1)
	n := 0
	for line := range strings.Lines(logs.out.String()) {
		if !strings.HasSuffix(line, fmt.Sprintf(" [APP/0] OUT line %d\n", n)) {
			t.Fatalf("line %d is %q", n, line)
		}
		n++
	}
	if got := strings.Count(fire.out.String(), "\n"); n != lines || got != lines {
		t.Errorf("%d in the logs, %d in the Firehose", n, got)
	}
	code, out, said := lgr(t.Context(), nil, "logs", "my-app", "nobody", "--recent=10", "--addr", up.controller)
	if code != 0 || strings.Count(out, "\n") != 10 || !strings.HasSuffix(out, last+"\n") {
		t.Errorf("recent: exit %d, stderr %q, stdout %q", code, said, out)
	}
	code, out, said = lgr(t.Context(), nil, "top", "--once", "--addr", up.controller)
	for _, want := range []string{"doppler-1", "doppler-2", "my-app", "lgr-"} {
		if !strings.Contains(out, want) {
			t.Errorf("top: exit %d, stderr %q, no %q in\n%s", code, said, want, out)
		}
	}
	logs.stop()
	fire.stop()
	logs.end(t)
	fire.end(t)
	up.finish(t)
}

func TestUpWithDemoAppsAndTLS(t *testing.T) {
	certs := filepath.Join(t.TempDir(), "certs")
	up := startPipeline(t, "--tail", "--demo-rate", "200", "--tls", "--cert-dir", certs)
	up.out.wait(t, "[RTR/", 3)
	up.out.wait(t, "shop   | ", 1)
	if !strings.HasPrefix(up.controller, "https://") || strings.Contains(up.err.String(), "Retrieving") {
		t.Errorf("at %s, stderr %s", up.controller, up.err.String())
	}
	tls := []string{"--tls-ca", certs + "/ca.crt", "--tls-cert", certs + "/metron.crt", "--tls-key", certs + "/metron.key"}
	code, _, said := lgr(t.Context(), strings.NewReader("hello\n"), append([]string{"emit", "-s", "me", "--addr", up.ingress}, tls...)...)
	if code != 0 {
		t.Errorf("emit: exit %d, %s", code, said)
	}
	code, out, said := lgr(t.Context(), nil, append([]string{"firehose", "--source-id", "me", "--count", "1", "--addr", up.controller}, tls[:2]...)...)
	if code != 0 || !strings.Contains(out, "hello") {
		t.Errorf("firehose: exit %d, stderr %q, stdout %q", code, said, out)
	}
	if code, _, said := lgr(t.Context(), nil, "logs", "me", "--addr", up.controller); code != 1 || !strings.Contains(said, "certificate") {
		t.Errorf("without trust: exit %d, stderr %q", code, said)
	}
	up.finish(t)
	// The certificates are kept and used again.
	again := startPipeline(t, "--tls", "--cert-dir", certs)
	again.finish(t)
}

func TestUpSaysWhichPortsAreTaken(t *testing.T) {
	const offset = 31_000
	for _, port := range []int{8081 + offset, 8083 + offset} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	code, _, said := lgr(t.Context(), nil, "up", "--port-offset", fmt.Sprint(offset))
	if code != 1 || !strings.Contains(said, "127.0.0.1:39081 for the Traffic Controller: taken by another program") ||
		!strings.Contains(said, "127.0.0.1:39083 for readers of Doppler 1: taken") || !strings.Contains(said, "--random-ports") {
		t.Errorf("exit %d, stderr %s", code, said)
	}
}

func TestUpLeavesNoTemporaryCertificates(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	up := startPipeline(t, "--tls")
	up.finish(t)
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestUpUsage(t *testing.T) {
	code, _, said := lgr(t.Context(), nil, "up", "--dopplers", "0", "--port-offset", "60000", "--random-ports", "--cert-dir", "x", "--demo-rate", "max", "--log-level", "loud")
	if code != 2 || strings.Count(said, "\n") != 7 {
		t.Errorf("exit %d, stderr %s", code, said)
	}
}
