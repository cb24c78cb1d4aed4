package daemon

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "65536": 65536, "12B": 12, "256KiB": 256 << 10, "64MiB": 64 << 20, "1 GiB": 1 << 30, "2TiB": 2 << 40,
		"5kB": 5000, "5KB": 5000, "10MB": 10e6, "1GB": 1e9, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "+1", "1.5MiB", "1MiB2", "1 2", "0x10", "9223372036854775808", "9007199254740992KiB", "ten"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, seed := range []string{"0", "64MiB", "1kB", "9223372036854775807", "-1", "TiB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseBytes(text)
		if err != nil {
			return
		}
		if again, err := ParseBytes(FormatBytes(n)); err != nil || again != n || n < 0 {
			t.Fatalf("%q: %d becomes %q becomes %d (%v)", text, n, FormatBytes(n), again, err)
		}
	})
}

// FuzzConfigFile feeds the file reader anything: it answers with values or
// faults, and never with a value for a key that is not a flag.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{"", "addr: :1", "peer: [a, b]", "a: b\nb: a", "- x", "addr: &x 1\npeer: *x", "{addr: 1, addr: 2}", "addr: !!binary aGk="} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		flags := newFlags("fuzz")
		defaults().Flags(flags)
		values, _ := flags.parseFile("fuzz.yaml", data)
		for _, v := range values {
			if flags.lookup(v.Name) == nil || !strings.HasPrefix(v.place, "fuzz.yaml:") {
				t.Fatalf("value for %q from %q", v.Name, v.place)
			}
		}
	})
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		2 * time.Minute: "2m", time.Hour: "1h", 90 * time.Second: "1m30s", 0: "0s", 10 * time.Second: "10s", 500 * time.Millisecond: "500ms",
		20 * time.Minute: "20m", time.Hour + time.Second: "1h0m1s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestMemoryFrom(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	meminfo := file("MemTotal:       2048 kB\nMemFree: 1 kB\n")
	for _, test := range []struct {
		name string
		fs   fstest.MapFS
		want int64
	}{
		{"nothing known", fstest.MapFS{}, 0},
		{"machine", fstest.MapFS{"proc/meminfo": meminfo}, 2048 << 10},
		{"no limit", fstest.MapFS{"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": file("max\n")}, 2048 << 10},
		{"container", fstest.MapFS{"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": file("4096\n")}, 4096},
		{"version 1", fstest.MapFS{"sys/fs/cgroup/memory/memory.limit_in_bytes": file("8192\n")}, 8192},
		{"unit", fstest.MapFS{
			"proc/meminfo": meminfo, "proc/self/cgroup": file("0::/system.slice/doppler.service\n"),
			"sys/fs/cgroup/system.slice/memory.max": file("9000"), "sys/fs/cgroup/system.slice/doppler.service/memory.max": file("max"),
		}, 9000},
	} {
		if got := memoryFrom(test.fs); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
	if MemoryLimit() < 0 {
		t.Error("negative limit")
	}
}
