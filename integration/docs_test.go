package integration

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

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
			}
		}
		for f := range described {
			if !known[f] && !strings.Contains(help.String(), f+" ") {
				t.Errorf("%s: the guide describes %s, which does not exist", name, f)
			}
		}
	}
}
