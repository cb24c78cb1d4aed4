package conformance

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// difference is one thing that is not as observed.
type difference struct{ field, want, got string }

func (d difference) String() string {
	return fmt.Sprintf("%s is %.200q, want %.200q", d.field, d.got, d.want)
}

// improvement is a difference on purpose.
type improvement struct {
	reason string // as in docs/compatibility.md
	fits   func(file, name string, d difference) bool
	// everywhere says that it alone makes no case improved.
	everywhere bool
}

// result is the verdict on one case.
type result struct {
	name        string
	done        bool
	reasons     []string // improvements
	differences []difference
	notes       []string // what was not looked at, and why
}

// report gathers the results of all files.
type report struct {
	mu    sync.Mutex
	files []*fileReport
	used  map[string]int // improvements, by reason
}

type fileReport struct {
	name  string
	cases []result
}

var all = report{used: map[string]int{}}

// file announces the cases of a file. One that gets no verdict fails.
func (r *report) file(name string, cases []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &fileReport{name: name}
	for _, c := range cases {
		f.cases = append(f.cases, result{name: c})
	}
	r.files = append(r.files, f)
}

// judge gives the verdict on case number i of a file.
func (r *report) judge(t *testing.T, file string, i int, differences []difference, notes ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.files[slices.IndexFunc(r.files, func(f *fileReport) bool { return f.name == file })]
	c := &f.cases[i]
	c.done, c.notes = true, notes
	for _, d := range differences {
		if why, ok := improved(file, c.name, d); !ok {
			c.differences = append(c.differences, d)
			t.Errorf("%s: %s: %s", file, c.name, d)
		} else if r.used[why.reason]++; !why.everywhere && !slices.Contains(c.reasons, why.reason) {
			c.reasons = append(c.reasons, why.reason)
		}
	}
}

func improved(file, name string, d difference) (why improvement, ok bool) {
	for _, i := range improvements {
		if i.fits(file, name, d) {
			return i, true
		}
	}
	return improvement{}, false
}

// print writes a line per case and the count. It returns how many have failed.
func (r *report) print(w io.Writer) (failed int) {
	ok, better := 0, 0
	for _, f := range r.files {
		for _, c := range f.cases {
			switch {
			case !c.done:
				failed++
				fmt.Fprintf(w, "FAIL      %s: %s: not replayed\n", f.name, c.name)
			case len(c.differences) > 0:
				failed++
				fmt.Fprintf(w, "FAIL      %s: %s: %v\n", f.name, c.name, c.differences)
			case len(c.reasons) > 0:
				better++
				fmt.Fprintf(w, "improved  %s: %s: %s\n", f.name, c.name, strings.Join(c.reasons, "; "))
			default:
				ok++
				fmt.Fprintf(w, "ok        %s: %s\n", f.name, c.name)
			}
			for _, note := range c.notes {
				fmt.Fprintf(w, "          not looked at: %s\n", note)
			}
		}
	}
	fmt.Fprintf(w, "%d cases: %d ok, %d improved, %d failed\n", ok+better+failed, ok, better, failed)
	return failed
}

// unused writes down the improvements that no case has met: they are gone, or
// never were. It returns how many.
func (r *report) unused(w io.Writer) (n int) {
	for _, i := range improvements {
		if r.used[i.reason] == 0 {
			n++
			fmt.Fprintf(w, "FAIL      no case shows: %s\n", i.reason)
		}
	}
	return n
}

// TestDocs holds the list in docs/compatibility.md against the improvements.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Differences that the replays meet\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var listed []string
	for line := range strings.Lines(section) {
		if item, ok := strings.CutPrefix(line, "- "); ok {
			listed = append(listed, strings.TrimSpace(item))
		}
	}
	var known []string
	for _, i := range improvements {
		known = append(known, i.reason)
	}
	slices.Sort(listed)
	slices.Sort(known)
	if !slices.Equal(listed, known) {
		t.Errorf("docs/compatibility.md lists\n%s\nbut the replays know\n%s", strings.Join(listed, "\n"), strings.Join(known, "\n"))
	}
}
