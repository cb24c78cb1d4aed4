package main

import (
	"context"
	"flag"
	"fmt"
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
	// expect is what this reader has to get of an envelope.
	expect func(via string, n int) []numbered

	left map[string]map[int][]numbered // some of it has come
	seen map[string][]bool             // all or some of it has come
	Result
}

// Result is what a reader says at its end.
type Result struct {
	Want     int    `json:"want"`
	Received int    `json:"received"` // of this run, and right
	Wrong    int    `json:"wrong"`    // of this run, but not what had to come, or not again
	Others   int    `json:"others"`   // of no run
	First    string `json:"first,omitempty"`
	Order    int    `json:"order"` // came after one with a higher number, of the same way
	last     map[string]int
}

func (c *check) flags(f *flag.FlagSet) {
	f.StringVar(&c.run, "run", "", "name of the run")
	f.Var(&c.via, "via", "ways that envelopes went in")
	f.IntVar(&c.count, "count", 0, "how many each")
	f.DurationVar(&c.limit, "limit", time.Minute, "how long to wait for them")
}

// prepare has to be called before take, with expect set.
func (c *check) prepare() {
	c.left, c.seen, c.last = map[string]map[int][]numbered{}, map[string][]bool{}, map[string]int{}
	for _, via := range c.via {
		c.left[via], c.seen[via] = map[int][]numbered{}, make([]bool, c.count)
		for n := range c.count {
			c.Want += len(c.expect(via, n))
		}
	}
}

// done tells whether everything has come.
func (c *check) done() bool { return c.Received >= c.Want }

// take looks at an envelope.
func (c *check) take(e numbered) {
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
