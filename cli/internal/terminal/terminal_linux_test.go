package terminal_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/a1ea6966/loggregator/cli/internal/terminal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openTerminal returns both ends of a pseudo terminal: what a person types on
// and sees, and what the program has.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

func TestKeysComeAsTheyArePressed(t *testing.T) {
	person, program := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	keys, stop, err := terminal.Keys(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := person.WriteString("aq"); err != nil {
		t.Fatal(err)
	}
	if a, q := <-keys, <-keys; a != 'a' || q != 'q' {
		t.Errorf("keys %q %q", a, q)
	}
	stop()
	stop()
	if _, open := <-keys; open {
		t.Error("open after stop")
	}
	after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v", err)
	}
}

func TestStopWithAKeyNobodyTook(t *testing.T) {
	person, program := openTerminal(t)
	_, stop, err := terminal.Keys(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := person.WriteString("xyz"); err != nil {
		t.Fatal(err)
	}
	stop()
}

func TestSizeAndWhatIsATerminal(t *testing.T) {
	_, program := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 133, Row: 44}); err != nil {
		t.Fatal(err)
	}
	if c, r := terminal.Size(program); c != 133 || r != 44 {
		t.Errorf("size %d x %d", c, r)
	}
	if c, r := terminal.Size(&strings.Builder{}); c != 80 || r != 24 {
		t.Errorf("default size %d x %d", c, r)
	}
	if !terminal.Is(program) || terminal.Is(&strings.Builder{}) {
		t.Error("what is a terminal")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, _, err := terminal.Keys(r); terminal.Is(r) || err == nil {
		t.Error("a pipe is no terminal")
	}
}
