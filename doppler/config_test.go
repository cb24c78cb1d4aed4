package doppler

import (
	"os"
	"strings"
	"testing"
)

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
		for _, said := range append([]string{v.Variable}, v.Sets...) {
			if !strings.Contains(string(guide), said+"`") {
				t.Errorf("docs/moving.md does not say `%s`", said)
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
