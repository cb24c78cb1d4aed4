package daemon

import (
	"bufio"
	"bytes"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// MemoryLimit is how many bytes this process may hope to use: the least of
// GOMEMLIMIT, its control group's limit, and the memory of the machine. 0 when
// none of them can be told.
func MemoryLimit() int64 {
	least := memoryFrom(os.DirFS("/"))
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 && (least == 0 || limit < least) {
		least = limit
	}
	return least
}

func memoryFrom(root fs.FS) int64 {
	var least int64
	take := func(limit int64) {
		if limit > 0 && (least == 0 || limit < least) {
			least = limit
		}
	}
	for _, file := range limitFiles(root) {
		data, err := fs.ReadFile(root, file)
		if err != nil {
			continue
		}
		// "max" is not a number and no limit.
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			take(limit)
		}
	}
	if data, err := fs.ReadFile(root, "proc/meminfo"); err == nil {
		take(memTotal(data))
	}
	return least
}

// limitFiles names where the limit of this process's control group and of the
// groups around it may stand.
func limitFiles(root fs.FS) []string {
	const base = "sys/fs/cgroup"
	files := []string{path.Join(base, "memory/memory.limit_in_bytes"), path.Join(base, "memory.max")}
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return files
	}
	for line := range strings.Lines(string(groups)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for ; ok && len(group) > 1; group = path.Dir(group) {
			files = append(files, path.Join(base, group, "memory.max"))
		}
	}
	return files
}

func memTotal(meminfo []byte) int64 {
	lines := bufio.NewScanner(bytes.NewReader(meminfo))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "MemTotal:" && fields[2] == "kB" {
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				return n << 10
			}
		}
	}
	return 0
}
