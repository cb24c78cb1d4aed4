// Command lgr runs, feeds and shows a Loggregator pipeline.
package main

import (
	"context"
	"os"

	"github.com/a1ea6966/loggregator/cli"
)

func main() {
	ctx, stop := cli.Interrupts(context.Background())
	code := cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
