package emit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Send takes one envelope and may block; the envelope is the caller's again
// when it returns.
type Send func(*loggregatorv2.Envelope) error

// Lines turns lines of text into logs.
type Lines struct {
	// Source, Instance and Tags are those of every envelope.
	Source   string
	Instance string
	Tags     map[string]string
	Type     loggregatorv2.Log_Type
	// MaxEnvelope is how many bytes a Doppler lets an envelope have, encoded.
	// A line that does not fit is sent in pieces, each a log of its own.
	MaxEnvelope int
	// Notice is told in plain words when that happens for the first time.
	Notice func(string)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// LineStats counts what Copy has read.
type LineStats struct {
	Lines uint64
	// Split lines, and the pieces they were sent in.
	Split, Pieces uint64
}

// MinEnvelope is the smallest MaxEnvelope that leaves room for text.
const MinEnvelope = 4 << 10

// Copy sends every line of r until its end; a last line without newline is a
// line. The newline is not sent, everything else is, as it is. Memory is
// bounded by MaxEnvelope however long a line is. Errors are those of r and of
// send.
func (l *Lines) Copy(r io.Reader, send Send) (LineStats, error) {
	c := l.newCopier(send)
	reader := bufio.NewReaderSize(r, 64<<10)
	for {
		chunk, err := reader.ReadSlice('\n')
		if err == nil || len(chunk) > 0 {
			if err := c.take(chunk); err != nil {
				return c.stats, err
			}
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return c.stats, c.end()
		default:
			return c.stats, errors.Join(fmt.Errorf("read the lines: %w", err), c.end())
		}
	}
}

// copier is the state of one Copy.
type copier struct {
	lines *Lines
	send  Send
	max   int
	now   func() time.Time

	envelope *loggregatorv2.Envelope
	log      *loggregatorv2.Log
	last     int64
	held     []byte // start of a line that goes on in the next chunk
	pieces   uint64 // of the line that goes on
	stats    LineStats
}

func (l *Lines) newCopier(send Send) *copier {
	log := &loggregatorv2.Log{Type: l.Type}
	e := &loggregatorv2.Envelope{
		SourceId:   l.Source,
		InstanceId: l.Instance,
		Tags:       maps.Clone(l.Tags),
		Message:    &loggregatorv2.Envelope_Log{Log: log},
	}
	c := &copier{lines: l, send: send, now: l.Now, envelope: e, log: log}
	if c.now == nil {
		c.now = time.Now
	}
	// Room for the timestamp and for the two lengths around the payload.
	const varints = 24
	c.max = max(l.MaxEnvelope, MinEnvelope) - proto.Size(e) - varints
	return c
}

// take handles what was read: up to and including a newline, or less.
func (c *copier) take(chunk []byte) error {
	ended := len(chunk) > 0 && chunk[len(chunk)-1] == '\n'
	if ended {
		chunk = chunk[:len(chunk)-1]
	}
	line := chunk
	if len(c.held) > 0 {
		c.held = append(c.held, chunk...)
		line = c.held
	}
	for len(line) > c.max {
		n := cut(line, c.max)
		if err := c.piece(line[:n]); err != nil {
			return err
		}
		line = line[n:]
	}
	if !ended {
		c.held = append(c.held[:0], line...)
		return nil
	}
	return c.finish(line)
}

// end sends a last line that has no newline.
func (c *copier) end() error {
	if len(c.held) == 0 {
		return nil
	}
	return c.finish(c.held)
}

func (c *copier) finish(rest []byte) error {
	c.stats.Lines++
	if c.pieces > 0 {
		c.stats.Split++
		c.stats.Pieces += c.pieces + 1
	}
	err := c.emit(rest)
	c.held, c.pieces = c.held[:0], 0
	return err
}

func (c *copier) piece(text []byte) error {
	if c.stats.Split == 0 && c.pieces == 0 && c.lines.Notice != nil {
		c.lines.Notice(fmt.Sprintf("line %d is longer than the %d bytes that fit in an envelope and is sent in pieces, like all that follow",
			c.stats.Lines+1, c.max))
	}
	c.pieces++
	return c.emit(text)
}

// emit gives each envelope a time of its own, so that readers who sort by time
// keep the order.
func (c *copier) emit(text []byte) error {
	c.last = max(c.now().UnixNano(), c.last+1)
	c.envelope.Timestamp = c.last
	c.log.Payload = text
	return c.send(c.envelope)
}

// cut returns where to end a piece of at most limit bytes: not within a
// character, if the line is text.
func cut(line []byte, limit int) int {
	for n := limit; n > limit-utf8.UTFMax; n-- {
		if utf8.RuneStart(line[n]) {
			return n
		}
	}
	return limit
}
