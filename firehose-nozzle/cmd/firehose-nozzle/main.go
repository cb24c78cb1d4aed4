// Command firehose-nozzle reads a subscription of the Firehose and writes its
// envelopes as lines to standard output or to a rotating file, each at least
// once: it acks what the sink has taken, and nothing else.
package main

import (
	"os"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

func main() {
	os.Exit(daemon.Main("firehose-nozzle", "writes the Firehose to standard output or a file", defaults(), run))
}
