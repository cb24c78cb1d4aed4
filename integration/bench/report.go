package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Machine is what the numbers were measured on.
type Machine struct {
	CPU       string
	Cores     int
	GoVersion string
	OS        string
	// BareRelay is what a thread that only reads and writes 64 KiB at a time
	// between two TCP connections takes for a reference envelope, in ns of CPU:
	// the least any Traffic Controller can take here. 0 is unknown.
	BareRelay float64
	// RelayTLS is the same over TLS, with records written one by one. 0 is unknown.
	RelayTLS float64
}

// Report is a set of results, as written to JSON.
type Report struct {
	Time    time.Time
	Machine Machine
	Results []Result
}

// ThisMachine describes where this runs, and what TLS costs there if that matters.
// It takes some seconds.
func ThisMachine(ctx context.Context, overTLS bool) (Machine, error) {
	m := thisMachine()
	var err error
	if m.BareRelay, err = bareRelay(ctx, nil, nil); err == nil && overTLS {
		m.RelayTLS, err = relayTLS(ctx)
	}
	return m, err
}

func thisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), GoVersion: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, CPU: "unknown"}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m // only Linux has it
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// WriteTable writes a report for people.
func (r Report) WriteTable(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%d x %s, %s, %s; everything, load included, on this machine\n", m.Cores, m.CPU, m.OS, m.GoVersion)
	if m.BareRelay > 0 {
		fmt.Fprintf(w, "a bare relay of 64 KiB reads and writes takes %.0f ns of CPU per envelope here\n", m.BareRelay)
	}
	if m.RelayTLS > 0 {
		fmt.Fprintf(w, "over TLS, %.0f ns\n", m.RelayTLS)
	}
	for _, result := range r.Results {
		if err := result.write(w); err != nil {
			return err
		}
	}
	return nil
}

func (r Result) write(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n", strings.ToUpper(r.Name))
	if r.Sent > 0 {
		offered := "all they can"
		if r.Offered > 0 {
			offered = count(r.Offered) + "/s"
		}
		fmt.Fprintf(w, "  offered %s, sent %s/s (%.0f MB/s), delivered %s/s; lost %d (told %d), doubled %d; drained in %s\n",
			offered, count(r.SentRate), r.MegabytesRate, count(r.DeliveredRate), r.Lost, r.Told, r.Duplicates,
			r.Drain.Round(time.Millisecond))
	}
	if r.Note != "" {
		fmt.Fprintf(w, "  %s\n", r.Note)
	}
	for _, label := range []string{firehose, tail, busyTail} {
		if l, ok := r.Latency[label]; ok {
			fmt.Fprintf(w, "  latency, %s: p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n", label,
				short(l.P50), short(l.P90), short(l.P99), short(l.P999), short(l.Max))
		}
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "  process\tCPU ns/envelope\tcores\tpeak MiB\tend MiB\t\n")
	for _, p := range r.Processes {
		nanos := "-"
		if r.Sent > 0 {
			nanos = strconv.Itoa(int(math.Round(p.NanosPerEnvelope)))
		}
		fmt.Fprintf(table, "  %s\t%s\t%.2f\t%.0f\t%.0f\t\n", p.Name, nanos, p.Cores,
			float64(p.Peak)/(1<<20), float64(p.Resident)/(1<<20))
	}
	return table.Flush()
}

// short writes a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(time.Microsecond).String()
	}
}

// count writes a number with commas.
func count(v float64) string {
	digits := strconv.FormatInt(int64(math.Round(v)), 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
