package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// numbered is an envelope, old or new.
type numbered interface {
	proto.Message
	GetTags() map[string]string
}

// check compares what a reader gets with what it has to get. It is for one
// goroutine.
type check struct {
	run   string
	via   list
	count int
	limit time.Duration
	// hold waits for a line on standard input before anything is read.
	hold bool
	// lossy takes gaps for what does not come.
	lossy bool
	// gap is how many envelopes an envelope says were dropped.
	gap func(numbered) int
	// expect is what this reader has to get of an envelope.
	expect func(via string, n int) []numbered

	left map[string]map[int][]numbered // some of it has come
	seen map[string][]bool             // all or some of it has come
	Result
}

// Result is what a reader says at its end.
type Result struct {
	Want     int `json:"want"`
	Received int `json:"received"` // of this run, and right
	// Of one envelope sent there may come several, or none: these are how many
	// had to come, and have come, in full.
	WantWhole int    `json:"want_whole"`
	Whole     int    `json:"whole"`
	Gaps      int    `json:"gaps"`   // told to be missing
	Wrong     int    `json:"wrong"`  // of this run, but not what had to come, or not again
	Others    int    `json:"others"` // of no run
	First     string `json:"first,omitempty"`
	Order     int    `json:"order"` // came after one with a higher number, of the same way
	last      map[string]int
}

func (c *check) flags(f *flag.FlagSet) {
	f.StringVar(&c.run, "run", "", "name of the run")
	f.Var(&c.via, "via", "ways that envelopes went in")
	f.IntVar(&c.count, "count", 0, "how many each")
	f.DurationVar(&c.limit, "limit", time.Minute, "how long to wait for them")
	f.BoolVar(&c.hold, "hold", false, "wait for a line on standard input before reading")
	f.BoolVar(&c.lossy, "lossy", false, "what is told to be missing need not come")
}

// prepare has to be called before take, with expect set.
func (c *check) prepare() {
	c.left, c.seen, c.last = map[string]map[int][]numbered{}, map[string][]bool{}, map[string]int{}
	for _, via := range c.via {
		c.left[via], c.seen[via] = map[int][]numbered{}, make([]bool, c.count)
		for n := range c.count {
			parts := len(c.expect(via, n))
			if c.Want += parts; parts > 0 {
				c.WantWhole++
			}
		}
	}
}

// done tells whether everything has come.
func (c *check) done() bool {
	return c.Received >= c.Want || c.lossy && c.Whole+c.Gaps >= c.WantWhole
}

// take looks at an envelope.
func (c *check) take(e numbered) {
	if c.gap != nil {
		if n := c.gap(e); n > 0 {
			c.Gaps += n
			return
		}
	}
	tags := e.GetTags()
	n, err := strconv.Atoi(tags["n"])
	via := tags["via"]
	if err != nil || tags["run"] != c.run || c.seen[via] == nil || n < 0 || n >= c.count {
		c.Others++
		return
	}
	if n < c.last[via] {
		c.Order++
	}
	c.last[via] = n
	if !c.seen[via][n] {
		c.seen[via][n], c.left[via][n] = true, c.expect(via, n)
	}
	rest := c.left[via][n]
	i := slices.IndexFunc(rest, func(want numbered) bool { return proto.Equal(want, e) })
	if i < 0 {
		c.wrong(n, e, rest)
		return
	}
	c.Received++
	if rest = slices.Delete(rest, i, i+1); len(rest) > 0 {
		c.left[via][n] = rest
	} else {
		delete(c.left[via], n)
		c.Whole++
	}
}

func (c *check) wrong(n int, got numbered, rest []numbered) {
	if c.Wrong++; c.First == "" {
		c.First = fmt.Sprintf("number %d is %s, still missing:", n, prototext.Format(got))
		for _, want := range rest {
			c.First += " " + prototext.Format(want)
		}
	}
}

// follow takes what next gives until everything has come, or nothing more
// within the limit, and says the result.
func follow[E numbered](ctx context.Context, c *check, next func(context.Context) ([]E, error)) error {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	if c.hold {
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return fmt.Errorf("wait for a line: %w", err)
		}
	}
	for !c.done() {
		batch, err := next(ctx)
		for _, e := range batch {
			c.take(e)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
	}
	return say(c.Result)
}
