package doppler

import (
	"testing"
)

// Every variable of the old job's names a flag that there is, or says why it
// has none.
func TestOldJob(t *testing.T) {
	for _, v := range oldJob() {
		if len(v.Sets) == 0 && v.Why == "" {
			t.Errorf("%s neither sets anything nor says why", v.Variable)
		}
	}
	c := DefaultConfig()
	c.TLS.Suites = []string{"TLS_RSA_WITH_RC4_128_SHA"}
	if err := c.Validate(); err == nil {
		t.Error("an unknown cipher suite is taken")
	}
}
