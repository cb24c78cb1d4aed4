package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// Of failures in a row to renew a token only the first is shown.
func TestTokenNotRenewedIsToldOnce(t *testing.T) {
	var errs bytes.Buffer
	w := newShow(Streams{Out: &bytes.Buffer{}, Err: &errs}, showFlags{Color: "never"}, false)
	l := newLink("http://h", w, 1)
	for _, attempt := range []int{1, 2, 3, 1, 2} {
		if err := l.take(event{notice: &nozzle.Notice{Kind: nozzle.TokenRefused, Err: errors.New("no"), Attempt: attempt}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(errs.String(), "could not be renewed (no)"); got != 2 || strings.Count(errs.String(), "\n") != 2 {
		t.Errorf("told %d times:\n%s", got, errs.String())
	}
}
