package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// slowHistory is after how long a person is told that history does not come.
const slowHistory = 5 * time.Second

// readAhead is how much a tail may hold that is not shown yet: a burst of a
// source must not be lost because a terminal is slower.
const readAhead = 64 << 20

// logsCommand shows what single sources emit.
type logsCommand struct {
	Source []string `arg:"" help:"Source ids: GUIDs of apps, or names of components."`

	Reader readerFlags `embed:""`
	Show   showFlags   `embed:""`

	Recent recent   `placeholder:"N" help:"Show the newest logs that are held and exit: 1000, or N with --recent=N."`
	Tail   int      `short:"n" placeholder:"N" help:"Begin with the newest N logs that are held, then follow."`
	Since  string   `placeholder:"WHEN" help:"Begin with what was logged since then (10m, or 2006-01-02T15:04:05Z), then follow."`
	Type   []string `sep:"," default:"log" placeholder:"TYPE" help:"Show log, counter, gauge, timer, event, or all; may be repeated (default ${default})."`

	quiet bool // neither header nor word about connections
}

// Help tells what looks how.
func (*logsCommand) Help() string {
	return `Lines look like those of cf logs; other kinds of envelopes like those of cf tail. With several sources, each line begins with its source. Only envelopes are on stdout; what a person should know about them (what was missed and why, a lost connection) is on stderr.

    lgr logs my-app
    lgr logs my-app other-app --since 10m
    lgr logs my-app --recent=100 --json | jq -r .log.payload`
}

func (c *logsCommand) check() error {
	faults := []error{c.Reader.check(), c.Show.check()}
	if slices.Contains(c.Source, "") {
		faults = append(faults, errors.New("SOURCE: an empty id is no source"))
	}
	c.Source = unique(c.Source)
	if slices.Contains(c.Type, "all") {
		c.Type = nil
	}
	if _, err := envelope.MaskOf(c.Type...); err != nil {
		faults = append(faults, fmt.Errorf("--type: %w", err))
	}
	if i := slices.IndexFunc(c.Source, isNumber); i >= 0 && c.Recent == defaultRecent {
		faults = append(faults, fmt.Errorf("--recent: write --recent=%s; %[1]s would be a source", c.Source[i]))
	}
	if c.Tail < 0 {
		faults = append(faults, fmt.Errorf("--tail: %d is not a number from 1 on", c.Tail))
	}
	if c.Tail > 0 && c.Recent > 0 {
		faults = append(faults, errors.New("--recent and --tail: one or the other"))
	}
	if _, err := parseSince(c.Since, time.Now()); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func isNumber(id string) bool {
	_, err := strconv.Atoi(id)
	return err == nil
}

func unique(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// parseSince reads a moment, or how long ago it was; nothing is the zero time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("--since: %q is neither a duration like 10m nor a time like 2006-01-02T15:04:05Z", text)
}

func (c *logsCommand) run(ctx context.Context, s Streams) error {
	config, err := c.Reader.config(ctx)
	if err != nil {
		return err
	}
	config.Types, config.ReadAhead = c.Type, readAhead
	config.Recent = max(int(c.Recent), c.Tail)
	if config.Since, err = parseSince(c.Since, time.Now()); err != nil {
		return err
	}
	configs := make([]nozzle.Config, len(c.Source))
	for i, source := range c.Source {
		configs[i] = config
		configs[i].Source = source
	}
	w := newShow(s, c.Show, len(c.Source) > 1, c.Source...)
	if !c.quiet {
		c.header(w)
	}
	r, err := openReader(ctx, nozzle.Tail, configs)
	if err != nil {
		return err
	}
	l := &logs{
		show: w, link: newLink(c.Reader.Addr, w, len(configs)), sources: c.Source, quiet: c.quiet,
		history: make([]bool, len(configs)), dump: c.Recent > 0,
	}
	if config.Recent > 0 || !config.Since.IsZero() {
		for i := range l.history {
			l.history[i] = true
		}
	}
	if l.dump {
		r.tickEvery(slowHistory)
	}
	return errors.Join(r.each(ctx, l.handle, l.idle), r.close())
}

func (c *logsCommand) header(w *show) {
	if len(c.Source) == 1 {
		w.header("Retrieving logs for source %s...", c.Source[0])
		return
	}
	w.header("Retrieving logs for sources "+strings.Repeat("%s, ", len(c.Source)-1)+"%s...", c.Source...)
}

// logs shows the tails of several sources.
type logs struct {
	show    *show
	link    *link
	sources []string
	// history says which sources still send what was before. The history of
	// several sources is held until all of it is there, to be sorted by time.
	history []bool
	held    []*loggregatorv2.Envelope
	// dump says to end where history ends.
	dump  bool
	quiet bool
}

func (l *logs) handle(e event) (enough bool, err error) {
	if e.batch != nil {
		return false, l.batch(e.from, e.batch)
	}
	switch {
	case e.notice != nil && e.notice.Kind == nozzle.Live:
		// Everything of the past was in events before.
	case !e.tick.IsZero():
		return false, l.show.notice("still waiting for the end of history: the Traffic Controller is busy, or has no Doppler")
	case l.quiet && e.end == nil:
		return false, nil
	default:
		return false, l.link.take(e)
	}
	l.history[e.from] = false
	if l.waiting() {
		return false, nil
	}
	return l.dump, l.release()
}

func (l *logs) batch(from int, b *nozzle.Batch) error {
	source := ""
	if len(l.sources) > 1 {
		source = l.sources[from]
	}
	for _, gap := range b.Gaps {
		if err := l.show.gap(source, gap, b.Position); err != nil {
			return err
		}
	}
	envelopes, err := b.Decode()
	if err != nil {
		return fault(err)
	}
	b.Release()
	if len(l.sources) > 1 && l.waiting() {
		l.held = append(l.held, envelopes...)
		return nil
	}
	for _, e := range envelopes {
		if err := l.show.envelope(e); err != nil {
			return err
		}
	}
	return nil
}

// waiting says whether a source still sends history.
func (l *logs) waiting() bool { return slices.Contains(l.history, true) }

// release shows what was held.
func (l *logs) release() error {
	slices.SortStableFunc(l.held, func(a, b *loggregatorv2.Envelope) int {
		return cmp.Compare(a.GetTimestamp(), b.GetTimestamp())
	})
	for _, e := range l.held {
		if err := l.show.envelope(e); err != nil {
			return err
		}
	}
	l.held = nil
	return nil
}

func (l *logs) idle() error { return l.show.idle() }
