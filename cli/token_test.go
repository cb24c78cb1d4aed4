package cli_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	code, out, errs := lgr(t.Context(), nil, "token", "team", "-s", "a,b", "-s", "pay-*", "--for", "1h")
	token := strings.TrimSpace(errs)
	hash := sha256.Sum256([]byte(token))
	if code != 0 || len(token) != 47 || !strings.HasPrefix(token, "lgr_") {
		t.Fatalf("code %d, token %q", code, token)
	}
	for _, want := range []string{"- name: team\n", "sha256: " + hex.EncodeToString(hash[:]) + "\n", "'a,b'", "pay-*", "expires: 20"} {
		if !strings.Contains(out, want) {
			t.Errorf("the entry lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, token) {
		t.Error("the entry shows the token")
	}
	_, other, again := lgr(t.Context(), nil, "token", "nozzle", "--all")
	if again == errs || !strings.Contains(other, "'*'") || strings.Contains(other, "expires") {
		t.Errorf("the second: %q\n%s", again, other)
	}
	for _, bad := range [][]string{{"x"}, {"x", "--all", "-s", "y"}, {strings.Repeat("x", 129), "--all"}, {"x", "--all", "--for", "-1h"}, {"x", "--all", "--for", "1ms"}, {"x", "-s", "*y"}, {"", "--all"}} {
		if code, out, err := lgr(t.Context(), nil, append([]string{"token"}, bad...)...); code != 2 || out != "" || err == "" {
			t.Errorf("%v: code %d, %q, %q", bad, code, out, err)
		}
	}
}
