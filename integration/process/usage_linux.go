package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux Go runs on.
const ticksPerSecond = 100

func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// Usage reads what the process took so far. CPU time is exact to 10 ms. It
// fails when the process has ended.
func (p *Process) Usage() (Usage, error) { return UsageOf(p.PID()) }

// UsageOf reads what any process took so far.
func UsageOf(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	// The name in parentheses may contain anything; fields count from its end.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, system = 11, 12
	if len(fields) <= system {
		return Usage{}, fmt.Errorf("read usage: %q is not understood", stat)
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Usage{}, fmt.Errorf("read usage: %w", err)
		}
		ticks += n
	}
	usage := Usage{CPU: time.Duration(ticks) * time.Second / ticksPerSecond}
	usage.Resident, usage.Peak, err = memory(pid)
	return usage, err
}

func memory(pid int) (resident, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read usage: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		var into *int64
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			into = &resident
		case strings.HasPrefix(line, "VmHWM:"):
			into = &peak
		default:
			continue
		}
		if _, err := fmt.Sscanf(line[len("VmRSS:"):], "%d kB", into); err != nil {
			return 0, 0, fmt.Errorf("read usage: %w", err)
		}
		*into <<= 10
	}
	return resident, peak, nil
}

// ResetPeak makes Peak begin anew.
func (p *Process) ResetPeak() error {
	const peak = "5" // see proc(5), clear_refs
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID()), []byte(peak), 0); err != nil {
		return fmt.Errorf("reset peak of memory: %w", err)
	}
	return nil
}
