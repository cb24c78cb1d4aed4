package trafficcontroller

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestOldDopplers(t *testing.T) {
	for list, want := range map[string]string{
		"10.0.0.1:8082":                        "10.0.0.1:8083",
		"10.0.0.1:8082, doppler.internal:8082": "10.0.0.1:8083,dns:///doppler.internal:8083",
		"[fd00::1]:8082":                       "[fd00::1]:8083",
		"doppler.internal":                     "",
		"10.0.0.1:65535":                       "",
		"10.0.0.1:grpc":                        "",
		"":                                     "",
	} {
		got, err := oldDopplers(list)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", list, got, err, want)
		}
	}
}

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

func TestOldJob(t *testing.T) {
	guide, err := os.ReadFile("../docs/moving.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range oldJob() {
		if len(v.Sets) == 0 && v.Why == "" {
			t.Errorf("%s neither sets anything nor says why", v.Variable)
		}
		row := rowOf(string(guide), v.Variable, "Traffic Controller", "RLP gateway", "both")
		if row == "" {
			t.Errorf("docs/moving.md has no row of %s", v.Variable)
		}
		for _, flag := range v.Sets {
			if !strings.Contains(row, "`--"+flag+"`") {
				t.Errorf("docs/moving.md does not say that %s is --%s", v.Variable, flag)
			}
		}
	}
}

func TestEndpoint(t *testing.T) {
	c := DefaultConfig()
	if got := c.endpoint(); got != "" {
		t.Errorf("%q without a domain", got)
	}
	c.SystemDomain = "sys.example.com"
	for port, want := range map[int]string{443: "doppler.sys.example.com:443", 4443: "doppler.sys.example.com:4443"} {
		if c.EndpointPort = port; c.endpoint() != want {
			t.Errorf("%q, want %q", c.endpoint(), want)
		}
	}
}
