package blackbox

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Installed returns the path of a program of the system that a test has for a
// peer, of the Debian package of that name. Without it the test fails in CI;
// elsewhere it is skipped, and standard error says so even where skipped tests
// are not shown.
func Installed(t testing.TB, name string) string {
	t.Helper()
	for _, place := range []string{name, "/usr/sbin/" + name} { // which is not in everybody's PATH
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	why := fmt.Sprintf("%s is not installed; on Debian: apt-get install %s", name, name)
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	fmt.Fprintf(os.Stderr, "\n*** %s PROVES NOTHING HERE: %s ***\n\n", t.Name(), why)
	t.Skip(why)
	return ""
}
