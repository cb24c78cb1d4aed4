package integration

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// TestOperatorsGuideNamesEveryFlag holds the guide to what the programs know.
func TestOperatorsGuideNamesEveryFlag(t *testing.T) {
	ctx := deadline(t)
	text, err := os.ReadFile("../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	flag := regexp.MustCompile(`--[a-z][a-z-]+`)
	for _, name := range []string{process.Doppler, process.TrafficController, process.Nozzle} {
		_, section, found := strings.Cut(string(text), "\n### "+name+"\n")
		if !found {
			t.Errorf("the guide has no section %s", name)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		section, _, _ = strings.Cut(section, "\n### ")
		described, known := make(map[string]bool), make(map[string]bool)
		for _, f := range flag.FindAllString(section, -1) {
			described[f] = true
		}
		var help bytes.Buffer
		finish(ctx, t, launch(t, name, process.Command{Args: []string{"--help"}, Stdout: &help}))
		for line := range strings.Lines(help.String()) {
			if f := flag.FindString(line); strings.HasPrefix(strings.TrimSpace(line), "--") {
				known[f] = true
				if !described[f] {
					t.Errorf("%s: the guide does not describe %s", name, f)
				}
				checkDefault(t, name, f, line, section)
			}
		}
		for f := range described {
			if !known[f] && !strings.Contains(help.String(), f+" ") {
				t.Errorf("%s: the guide describes %s, which does not exist", name, f)
			}
		}
	}
}

// TestOperatorsGuideNamesEveryFlagOfTheCanary does the same for lgr canary.
func TestOperatorsGuideNamesEveryFlagOfTheCanary(t *testing.T) {
	ctx := deadline(t)
	text, err := os.ReadFile("../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Canary\n")
	_, section, _ = strings.Cut(section, "\n### Flags\n")
	section, _, _ = strings.Cut(section, "\n### ")
	var help bytes.Buffer
	finish(ctx, t, launch(t, process.Lgr, process.Command{Args: []string{"canary", "--help"}, Stdout: &help}))
	flag := regexp.MustCompile(`--[a-z][a-z-]+`)
	declaration := regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z][a-z-]+)`)
	known := map[string]bool{"--help": true}
	for _, m := range declaration.FindAllStringSubmatch(help.String(), -1) {
		if !strings.Contains(section, "`"+m[1]+"`") && !known[m[1]] {
			t.Errorf("the guide does not describe %s", m[1])
		}
		known[m[1]] = true
	}
	for _, f := range flag.FindAllString(section, -1) {
		if !known[f] {
			t.Errorf("the guide describes %s, which does not exist", f)
		}
	}
	if len(known) < 15 {
		t.Errorf("%d flags found in:\n%s", len(known), help.String())
	}
}

// checkDefault checks that a row of the guide has the default of the help,
// where that is the same on every machine and not said elsewhere.
func checkDefault(t *testing.T, name, flag, help, section string) {
	t.Helper()
	_, value, ok := strings.Cut(help, "(default ")
	if !ok || flag == "--name" || flag == "--ring-bytes" {
		return
	}
	value = strings.TrimSuffix(strings.TrimSpace(value), ")")
	for row := range strings.Lines(section) {
		if !strings.HasPrefix(row, "|") || !strings.Contains(row, "`"+flag+"`") {
			continue
		}
		if columns := strings.Split(row, "|"); !strings.Contains(row, "see above") && strings.TrimSpace(columns[2]) != value &&
			!strings.Contains(row, "as everywhere") && !slices.Contains(strings.FieldsFunc(columns[2], isSeparator), value) {
			t.Errorf("%s: the guide says the default of %s is %q, the help says %q", name, flag, strings.TrimSpace(columns[2]), value)
		}
	}
}

func isSeparator(r rune) bool { return r == ' ' || r == ',' }

// TestOperatorsGuideNamesEveryMetric holds the guide to what is exported.
func TestOperatorsGuideNamesEveryMetric(t *testing.T) {
	ctx := deadline(t)
	text, err := os.ReadFile("../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	nozzle := launch(t, process.Nozzle, process.Command{Args: []string{
		"--addr", p.URL(0), "--subscription", "s", "--admin-addr", "127.0.0.1:0",
	}})
	listening, err := nozzle.Listening(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{p.Dopplers[0].Addrs[pipeline.Stream], p.Controllers[0].Addrs[pipeline.Public]} {
		get(ctx, t, "http://"+addr+"/no/such/path", http.StatusNotFound) // one to count
	}
	metrics := []string{startCanary(ctx, t, p).url}
	own := regexp.MustCompile(`\b(doppler|trafficcontroller|firehose_nozzle|lgr_canary)_[a-z_]+\b`)
	exported := make(map[string]bool)
	for _, addr := range []string{
		p.Dopplers[0].Addrs[pipeline.Admin], p.Controllers[0].Addrs[pipeline.Admin], listening[pipeline.Admin],
	} {
		metrics = append(metrics, "http://"+addr+"/metrics")
	}
	for _, url := range metrics {
		for line := range strings.Lines(get(ctx, t, url, http.StatusOK)) {
			if name := own.FindString(line); strings.HasPrefix(line, "# TYPE") && name != "" {
				exported[name] = true
			}
		}
	}
	described := make(map[string]bool)
	for _, name := range own.FindAllString(string(text), -1) {
		described[name] = true
		if !exported[name] && !strings.HasPrefix(name, "doppler_proxy") {
			t.Errorf("the guide describes %s, which does not exist", name)
		}
	}
	for name := range exported {
		if !described[name] {
			t.Errorf("the guide does not describe %s", name)
		}
	}
}

// TestDocsNameTestsThatExist holds the promises to the tests that show them.
func TestDocsNameTestsThatExist(t *testing.T) {
	declared := make(map[string]bool)
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range declaration.FindAllSubmatch(source, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{"docs/delivery.md", "SECURITY.md"} {
		text, err := os.ReadFile("../" + doc)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile(`\bTest\w+`).FindAllString(string(text), -1)
		if len(named) == 0 {
			t.Fatalf("%s names no test", doc)
		}
		for _, name := range named {
			if !declared[name] {
				t.Errorf("%s names %s, which does not exist", doc, name)
			}
		}
	}
}
