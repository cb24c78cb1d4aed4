package doppler

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// rowOf is what a table of variables, jobs and flags says of a variable of one
// of jobs.
func rowOf(text, variable string, jobs ...string) string {
	for line := range strings.Lines(text) {
		columns := strings.Split(line, "|")
		if len(columns) == 5 && strings.Contains(columns[1], "`"+variable+"`") && slices.Contains(jobs, strings.TrimSpace(columns[2])) {
			return columns[3]
		}
	}
	return ""
}

// Every variable of the old job's names a flag that there is, or says why it
// has none.
func TestOldJob(t *testing.T) {
	guide, err := os.ReadFile("../docs/moving.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range oldJob() {
		if len(v.Sets) == 0 && v.Why == "" {
			t.Errorf("%s neither sets anything nor says why", v.Variable)
		}
		row := rowOf(string(guide), v.Variable, "Doppler", "both")
		if row == "" {
			t.Errorf("docs/moving.md has no row of %s", v.Variable)
		}
		for _, flag := range v.Sets {
			if !strings.Contains(row, "`--"+flag+"`") {
				t.Errorf("docs/moving.md does not say that %s is --%s", v.Variable, flag)
			}
		}
	}
	suites, err := oldSuites("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384")
	if want := "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"; err != nil || suites != want {
		t.Errorf("suites are %q, %v, want %q", suites, err, want)
	}
	c := DefaultConfig()
	c.TLS.Suites = []string{"TLS_RSA_WITH_RC4_128_SHA"}
	if err := c.Validate(); err == nil {
		t.Error("an unknown cipher suite is taken")
	}
}
