package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings is a configuration with one of each kind.
type settings struct {
	Addr   string
	Peers  []string
	Budget int64
	Linger time.Duration
	Count  int
	Open   bool
}

func defaults() *settings {
	return &settings{Addr: ":1", Budget: 1 << 20, Linger: 2 * time.Minute, Count: 7, Peers: []string{"default"}}
}

func (s *settings) Flags(f *Flags) {
	f.Group("Listeners")
	f.String(&s.Addr, "addr", "`address` to listen on")
	f.Strings(&s.Peers, "peer", "`host:port` of a peer, may be repeated")
	f.Group("Limits")
	f.Bytes(&s.Budget, "budget-bytes", "memory for everything")
	f.Duration(&s.Linger, "linger", "how long to wait")
	f.Int(&s.Count, "count", "how many")
	f.Bool(&s.Open, "open", "let anybody in")
	f.Inherit([]string{"OLD_"},
		Inherited{Variable: "OLD_PORT", Sets: []string{"addr"}, Convert: Port(0)},
		Inherited{Variable: "OLD_ADDRS", Sets: []string{"peer"}},
		Inherited{Variable: "OLD_INTERVAL_MS", Sets: []string{"linger"}, Convert: Milliseconds},
		Inherited{Variable: "OLD_LINGER", Sets: []string{"linger"}},
		Inherited{Variable: "OLD_LOCAL", Sets: []string{"addr"}, Convert: LocalPort},
		Inherited{Variable: "OLD_BUFFER", Why: "there is no such buffer"},
	)
}

func (s *settings) Validate() error {
	var faults Faults
	faults.Address("addr", s.Addr)
	faults.BytesBetween("budget-bytes", s.Budget, 1<<10, 1<<30)
	Between(&faults, "linger", s.Linger, 0, time.Hour)
	Between(&faults, "count", s.Count, 1, 10)
	return faults.Err()
}

type outcome struct {
	code           int
	stdout, stderr string
	ran            bool
	settings       *settings
}

func start(t *testing.T, args []string, environment map[string]string, file string, run func(context.Context, *slog.Logger) error) outcome {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "test.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(slices.Clone(args), "--config", name)
	}
	var stdout, stderr bytes.Buffer
	o := outcome{settings: defaults()}
	p := program{
		name: "test-service", summary: "does nothing", settings: o.settings, args: args,
		lookup: func(name string) (string, bool) { v, ok := environment[name]; return v, ok },
		environ: func() (list []string) {
			for name, v := range environment {
				list = append(list, name+"="+v)
			}
			return list
		},
		stdout: &stdout, stderr: &stderr,
	}
	o.code = p.main(t.Context(), func(ctx context.Context, log *slog.Logger) error {
		o.ran = true
		if run == nil {
			return nil
		}
		return run(ctx, log)
	})
	o.stdout, o.stderr = stdout.String(), stderr.String()
	return o
}

func TestPrecedence(t *testing.T) {
	o := start(t, []string{"--budget-bytes=3MiB", "--peer", "flag1", "-peer=flag2", "--open"},
		map[string]string{
			"TEST_SERVICE_BUDGET_BYTES": "2MiB", "TEST_SERVICE_COUNT": "2", "TEST_SERVICE_PEER": "env",
			"TEST_SERVICE_PORT": "tcp://10.0.0.1:80", // what Kubernetes sets, for instance
		},
		"budget-bytes: 4MiB\ncount: 3\nlinger: 4s\npeer: [file1, file2]\n", nil)
	want := settings{Addr: ":1", Peers: []string{"flag1", "flag2"}, Budget: 3 << 20, Count: 2, Linger: 4 * time.Second, Open: true}
	if o.code != ExitOK || !o.ran {
		t.Fatalf("exit %d: %s", o.code, o.stderr)
	}
	if got := *o.settings; !slices.Equal(got.Peers, want.Peers) || got.Addr != want.Addr || got.Budget != want.Budget ||
		got.Count != want.Count || got.Linger != want.Linger || got.Open != want.Open {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func TestListLayers(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		file string
		want []string
	}{
		{"default", nil, "", []string{"default"}},
		{"file scalar", nil, "peer: one,still\n", []string{"one,still"}},
		{"file list", nil, "peer:\n- a\n- b\n", []string{"a", "b"}},
		{"environment over file", map[string]string{"TEST_SERVICE_PEER": "x, y"}, "peer: [a]\n", []string{"x", "y"}},
		{"empty variable is none", map[string]string{"TEST_SERVICE_PEER": ""}, "peer: [a]\n", []string{"a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if o := start(t, nil, test.env, test.file, nil); !slices.Equal(o.settings.Peers, test.want) {
				t.Fatalf("got %q, want %q (%s)", o.settings.Peers, test.want, o.stderr)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	o := start(t, []string{"--addr", "nowhere", "--bogus", "value", "stray", "--linger", "10", "--count=11", "--budget", "--open=perhaps"},
		map[string]string{"TEST_SERVICE_BUDGET_BYTES": "64 monkeys", "TEST_SERVICE_PEER": "a,,b"},
		"count: many\ncolour: red\ncolour: blue\nlinger: [1s]\naddr:\n  host: x\nconfig: other.yaml\n", nil)
	if o.code != ExitUsage || o.ran || o.stdout != "" {
		t.Fatalf("exit %d, ran %v, stdout %q", o.code, o.ran, o.stdout)
	}
	for _, want := range []string{
		"test-service: 15 faults in the configuration:",
		`--addr "nowhere": must be host:port or :port`,
		"--bogus: unknown flag",
		`unexpected argument "stray"`,
		`--linger: "10" is not a duration`,
		"--count 11: must be between 1 and 10",
		"--budget: unknown flag (--budget-bytes?)",
		`--open: "perhaps" is neither true nor false`,
		`TEST_SERVICE_BUDGET_BYTES: "64 monkeys" is not a size`,
		"TEST_SERVICE_PEER: is empty",
		`test.yaml:1: count: "many" is not a whole number`,
		"test.yaml:2: colour: unknown key",
		"test.yaml:3: colour: unknown key",
		"test.yaml:4: linger: needs a single value",
		"test.yaml:5: addr: needs a single value",
		"test.yaml:7: config: unknown key",
	} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("no %q in\n%s", want, o.stderr)
		}
	}
}

func TestFileFaults(t *testing.T) {
	for file, want := range map[string]string{
		"- a\n- b\n":           "must be a mapping",
		"addr: [\n":            "yaml: ",
		"addr: a:1\naddr: b:2": "test.yaml:2: addr: given twice",
		"addr:\n":              "addr: needs a single value",
		"peer: {a: b}":         "needs a value or a list of values",
	} {
		if o := start(t, nil, nil, file, nil); o.code != ExitUsage || !strings.Contains(o.stderr, want) {
			t.Errorf("%q: exit %d, no %q in %s", file, o.code, want, o.stderr)
		}
	}
	if o := start(t, []string{"--config", "/no/such/file"}, nil, "", nil); o.code != ExitUsage || !strings.Contains(o.stderr, "/no/such/file") {
		t.Errorf("missing file: exit %d, %s", o.code, o.stderr)
	}
	if o := start(t, nil, nil, "# nothing but a comment\n", nil); o.code != ExitOK {
		t.Errorf("empty file: exit %d, %s", o.code, o.stderr)
	}
}

func TestHelpAndVersion(t *testing.T) {
	o := start(t, []string{"--help", "--bogus"}, nil, "", nil)
	for _, want := range []string{
		"does nothing", "TEST_SERVICE_FLAG_NAME", "\nListeners:\n", "\nLimits:\n", "\nGeneral:\n",
		"--budget-bytes BYTES", "(default 1MiB)", "--linger DURATION", "(default 2m)", "--peer HOST:PORT", "--open  ",
	} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q in\n%s", want, o.stdout)
		}
	}
	if o.code != ExitOK || o.ran || o.stderr != "" {
		t.Errorf("help: exit %d, ran %v, stderr %q", o.code, o.ran, o.stderr)
	}
	if o := start(t, []string{"--version"}, nil, "", nil); o.code != ExitOK || o.ran || !strings.HasPrefix(o.stdout, "test-service ") {
		t.Errorf("version: exit %d, ran %v, %q", o.code, o.ran, o.stdout)
	}
}

func TestRunFails(t *testing.T) {
	o := start(t, []string{"--log-level", "error"}, nil, "", func(context.Context, *slog.Logger) error { return errors.New("no luck") })
	var line struct{ Level, Msg, Error, Service string }
	if err := json.Unmarshal([]byte(o.stderr), &line); err != nil {
		t.Fatalf("%v in %q", err, o.stderr)
	}
	if o.code != ExitFailed || line.Error != "no luck" || line.Service != "test-service" {
		t.Fatalf("exit %d, %s", o.code, o.stderr)
	}
}

func TestSignalEndsRun(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		o := start(t, nil, nil, "", func(ctx context.Context, _ *slog.Logger) error {
			if err := syscall.Kill(syscall.Getpid(), s); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if o.code != ExitOK || !strings.Contains(o.stderr, s.String()) {
			t.Errorf("%v: exit %d, %s", s, o.code, o.stderr)
		}
	}
}

func TestMain_UsesTheProcess(t *testing.T) {
	saved := os.Args
	defer func() { os.Args = saved }()
	os.Args = []string{"x", "--count", "3"}
	ran := 0
	code := Main("test-service", "does nothing", defaults(), func(_ context.Context, s *settings, _ *slog.Logger) error {
		ran = s.Count
		return nil
	})
	if code != ExitOK || ran != 3 {
		t.Fatalf("exit %d, count %d", code, ran)
	}
}
