package blackbox

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

// SamePayloads checks that a file of envelopes, a line of JSON each, has exactly n
// logs with the payloads that want tells, in order.
func SamePayloads(t *testing.T, path string, n int, want func(i int) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for line := range bytes.Lines(text) {
		var envelope struct {
			Log struct {
				Payload string `json:"payload"`
			} `json:"log"`
		}
		if err := json.Unmarshal(line, &envelope); err != nil {
			t.Fatalf("%s: line %d: %v: %s", path, i, err, line)
		}
		if i >= n || envelope.Log.Payload != want(i) {
			t.Fatalf("%s: line %d is %q", path, i, envelope.Log.Payload)
		}
		i++
	}
	if i != n {
		t.Errorf("%s: %d lines of %d", path, i, n)
	}
}
