package integration

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/a1ea6966/loggregator/integration/blackbox"
)

// The words of package blackbox that most tests here are written in.
var (
	deadline      = blackbox.Deadline
	start         = blackbox.Start
	send          = blackbox.Send
	newSenders    = blackbox.NewSenders
	launch        = blackbox.Launch
	finish        = blackbox.Finish
	read          = blackbox.Read
	firehose      = blackbox.Firehose
	until         = blackbox.Until
	complete      = blackbox.Complete
	poll          = blackbox.Poll
	metric        = blackbox.Metric
	get           = blackbox.Get
	subscriptions = blackbox.Subscriptions
	links         = blackbox.Links
	members       = blackbox.Members
	full          = blackbox.Full
)

type sending = blackbox.Sending

// lines counts the lines of a file, 0 when it does not exist.
func lines(t *testing.T, path string) (n int) {
	t.Helper()
	file, err := os.Open(filepath.Clean(path))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for r := bufio.NewReaderSize(file, 1<<20); ; n++ {
		if _, err := r.ReadSlice('\n'); err == io.EOF {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
