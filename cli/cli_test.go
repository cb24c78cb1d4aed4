package cli_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer may be written and read concurrently.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{} // closed and replaced with every write, if not nil
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// wait blocks until text was written n times.
func (b *buffer) wait(t *testing.T, text string, n int) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		b.mu.Lock()
		got := b.b.String()
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		if strings.Count(got, text) >= n {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%q was not written %d times in %q", text, n, got)
		}
	}
}

// lgr runs the command until it ends.
func lgr(ctx context.Context, in io.Reader, args ...string) (code int, out, err string) {
	var o, e buffer
	code = cli.Run(ctx, args, cli.Streams{In: in, Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// process is a command that runs.
type process struct {
	out, err buffer
	stop     context.CancelFunc
	code     chan int
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{stop: cancel, code: make(chan int, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.code <- cli.Run(ctx, args, cli.Streams{Out: &p.out, Err: &p.err})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if t.Failed() {
			t.Logf("lgr %s said:\n%s", strings.Join(args, " "), p.err.String())
		}
	})
	return p
}

// end waits until the command has ended and returns its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	select {
	case code := <-p.code:
		return code
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not end; stderr: %s", p.err.String())
		return 0
	}
}

func TestWrongUseSaysEverythingAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		args string
		want []string
	}{
		{"unknown command", "fly", []string{"unexpected argument fly"}},
		{"unknown flags and bad values", "emit --bogus --count abc --nope=3 --size 3x --rate -1 --duration x", []string{
			"unknown flag --bogus", "unknown flag --nope", `--count: "abc" is not a whole number`, `--size: "3x" is not a number of bytes`,
			`--rate: "-1" is not a number per second`, `--duration: "x" is not a duration`,
		}},
		{"values that do not fit", "emit --addr nowhere --addr :1 --kind x --count 1 --sources 0 --tls-cert c --size 1GiB", []string{
			`--addr: "nowhere" is no address`, `--kind: "x" is not one of log`, "--sources: 0 is too few",
			"--tls-ca, --tls-cert and --tls-key: a Doppler needs all three", "--size: more than 524288",
		}},
		{"lines of nobody", "emit --max-envelope-bytes 10", []string{"--source: lines need the id of a source", "--max-envelope-bytes: less than 4096"}},
		{"unknown flag and a value", "emit --bogus --kind x --count 3", []string{"unknown flag --bogus", "--kind"}},
		{"top", "top --addr ftp://x --color red --interval 1ms", []string{`--addr: "ftp://x" is no address`, `--color: "red"`, "--interval: 1ms"}},
		{"certs", "certs", []string{`"<dir>"`}},
		{"logs", "logs a --tail -1 --type metric --since yesterday --addr :x --color no", []string{
			"--tail: -1", "--type: ", `--since: "yesterday"`, "--addr: ", `--color: "no"`,
		}},
		{"logs of nobody", "logs --recent=0", []string{`"<source> ..."`, `--recent: "0" is not a number from 1 on`}},
		{"recent with its number apart", "logs --recent 100 a", []string{"write --recent=100"}},
		{"and behind", "logs a --recent 100", []string{"write --recent=100"}},
		{"recent and tail", "logs a -n 3 --recent", []string{"--recent and --tail"}},
		{"canary", "canary --addr :x --doppler nowhere --rate max --size 1GiB --lost-after 1ms --give-up 2h --interval 1ms --doppler-tls-ca x --token a --token-file b --admin-addr x", []string{
			"--addr: ", "--doppler: ", "--rate: not between", "--size: more than 524288", "--lost-after: 1ms", "--give-up: 2h0m0s", "--interval: 1ms",
			"--doppler-tls-ca, --doppler-tls-cert", "--token, --token-file and --token-command", "--admin-addr: ",
		}},
		{"more than can be told apart", "canary --rate 100000 --lost-after 1h", []string{"--rate and --lost-after: "}},
		{"firehose", "firehose --type x --stats --json", []string{"--type: ", "--stats and --json"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, err := lgr(t.Context(), strings.NewReader(""), strings.Fields(tc.args)...)
			if code != 2 || out != "" {
				t.Errorf("exit %d, stdout %q", code, out)
			}
			for _, want := range tc.want {
				if strings.Count(err, want) != 1 {
					t.Errorf("%q is not told once in:\n%s", want, err)
				}
			}
			if lines := strings.Count(err, "\nlgr"); lines != len(tc.want) {
				t.Errorf("%d faults told, want %d:\n%s", lines, len(tc.want), err)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"", "--help", "emit --help", "top --help", "canary --help", "certs -h"} {
		code, out, err := lgr(t.Context(), nil, strings.Fields(args)...)
		if code != 0 || err != "" || !strings.HasPrefix(out, "Usage: lgr") {
			t.Errorf("lgr %s: exit %d, stderr %q, stdout %q", args, code, err, out)
		}
	}
	if code, out, _ := lgr(t.Context(), nil, "version"); code != 0 || !strings.Contains(out, "go1") {
		t.Errorf("version: exit %d, %q", code, out)
	}
}

func TestCertsMakesASetOnce(t *testing.T) {
	dir := t.TempDir()
	code, out, err := lgr(t.Context(), nil, "certs", dir)
	if code != 0 || err != "" || !strings.Contains(out, dir+"/doppler.crt\n") {
		t.Errorf("exit %d, stderr %q, stdout %q", code, err, out)
	}
	if code, _, err := lgr(t.Context(), nil, "certs", dir); code != 1 || !strings.Contains(err, "refusing to replace") {
		t.Errorf("again: exit %d, %q", code, err)
	}
	if code, _, err := lgr(t.Context(), nil, "certs", "--force", dir); code != 0 {
		t.Errorf("by force: exit %d, %q", code, err)
	}
}
