//go:build linux

package chaos

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// row is what one kind of reader sees of one fault.
type row struct {
	fault, who string
	hit        bool
	noticed    time.Duration // since the fault began
	first      time.Duration // from the end of the fault to the first envelope
	all        time.Duration // likewise, to the last that waited
	cuts       uint64
	accepted   uint64
	account
}

func (r row) lost() uint64 { return r.accepted - min(r.accepted, r.distinct+r.told) }

func (r row) String() string {
	noticed, first, all := "", "goes on", ""
	if r.hit {
		first, all = seconds(r.first), seconds(r.all)
		if r.noticed > 0 {
			noticed = seconds(r.noticed)
		}
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %d | %d | %d | %d |\n",
		r.fault, r.who, noticed, first, all, r.lost(), r.told, r.again, r.unmarked)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// table gathers the rows of all tests.
type table struct {
	mu   sync.Mutex
	rows []row
}

var report table

func (t *table) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

const tableHead = "| fault | who | noticed after | first envelope | all that waited | lost | told | again, marked | again, unmarked |\n" +
	"|---|---|---|---|---|---|---|---|---|\n"

func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var text strings.Builder
	text.WriteString(tableHead)
	for _, r := range t.rows {
		text.WriteString(r.String())
	}
	return text.String()
}

// The table's place in the document.
const (
	document   = "../../docs/delivery.md"
	tableBegin = "<!-- faults: made by make chaos -->\n"
	tableEnd   = "<!-- /faults -->"
)

// readTable cuts the document around the table.
func readTable() (before, table, after string, err error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return "", "", "", err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	table, after, found := strings.Cut(rest, tableEnd)
	if !ok || !found {
		return "", "", "", fmt.Errorf("%s has no place for the table of faults", document)
	}
	return before, table, after, nil
}

// publish is called when all tests are over. It prints the table and, if LGR_DELIVERY is write, puts it into the
// document, which should be done after a run of everything.
func publish() error {
	if len(report.rows) == 0 {
		return nil
	}
	fmt.Print(&report)
	if os.Getenv("LGR_DELIVERY") != "write" {
		return nil
	}
	before, _, after, err := readTable()
	if err != nil {
		return err
	}
	return os.WriteFile(document, []byte(before+tableBegin+"\n"+report.String()+"\n"+tableEnd+after), 0o600)
}

// TestFaultsAreDocumented holds the document to the faults there are. Numbers
// differ from run to run.
func TestFaultsAreDocumented(t *testing.T) {
	_, written, _, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	var known, listed []string
	for _, f := range faults {
		for _, l := range newLedgers() {
			known = append(known, f.name+" | "+l.name)
		}
	}
	for line := range strings.Lines(strings.TrimPrefix(strings.TrimSpace(written)+"\n", tableHead)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			listed = append(listed, strings.TrimSpace(cells[1])+" | "+strings.TrimSpace(cells[2]))
		}
	}
	slices.Sort(known)
	slices.Sort(listed)
	if !slices.Equal(known, listed) {
		t.Errorf("%s lists\n%s\nbut the faults are\n%s\nrun LGR_DELIVERY=write make chaos", document, strings.Join(listed, "\n"), strings.Join(known, "\n"))
	}
}
