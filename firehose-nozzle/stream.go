package nozzle

import (
	"context"
	"net/url"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Stream is one reader of a subscription or of a source. It keeps itself
// connected until it is closed or until an error that no other dial would
// mend.
//
// Recv is for one goroutine at a time. All other methods, and those of its
// batches, may be called concurrently with it and with each other.
type Stream struct {
	// static
	cfg     Config
	addr    *url.URL
	session string // id of it
	passes  bool   // nobody waits for an ack: a tail, or AutoAck
	cancel  context.CancelFunc
	acks    chan struct{} // says that there is something to flush; never closed
	some    chan struct{} // says that there is something to take; never closed
	room    chan struct{} // says that there is room to read on; never closed
	quit    chan struct{} // closed by Close, first
	bye     chan struct{} // closed by Close when it has said goodbye
	ended   chan struct{} // closed by run when the stream is over
	done    chan struct{} // closed when both goroutines have returned
	err     error         // why it is over; set before ended is closed

	// owned by Recv
	last *Batch // what passes is consumed when Recv is called again

	closing  sync.Once
	closeErr error // set by closing
	sending  sync.Mutex

	// guarded by mu
	mu      sync.Mutex
	place   *stream.Place // of what is acked
	read    *stream.Place // of what is received, if passes
	ahead   []item        // received, to be taken by Recv
	bytes   int           // of ahead
	waiting bool          // Recv waits for an item
	conn    *stream.Conn  // nil while there is none
	status  Status
}

// item is what a message says about the place of the stream, in order: it
// counts when Recv gets there.
type item struct {
	link     int    // number of the connection
	batch    *Batch // nil when there is nothing to return
	position *streampb.Position
	fins     []*streampb.Fin
	live     bool // history was before; nothing else is set
}

// itemBytes is what an item counts besides its envelopes.
const itemBytes = 256

func (it *item) size() int {
	if it.batch == nil {
		return itemBytes
	}
	return itemBytes*(1+len(it.batch.Gaps)) + len(it.batch.Envelopes)
}

// Status is a snapshot of a stream, for health checks and metrics.
type Status struct {
	// Connected says whether there is a connection whose server has said
	// hello, and Since since when that is so or not.
	Connected bool
	Since     time.Time
	// Err is why there is no connection; nil before the first dial has failed,
	// and while there is one.
	Err error
	// Server is the name of the Traffic Controller that said hello last.
	Server string
	// Connects counts the connections that came about.
	Connects uint64
	// LastMessage is when anything was received last.
	LastMessage time.Time
	// Heartbeat is the last one of the server; nil before the first. Read
	// only.
	Heartbeat *streampb.Heartbeat
	// Unacked is the number of batches that Recv has returned and that are
	// not acked.
	Unacked int
}

// Open joins a subscription. It returns at once; connecting is done behind
// Recv, and the stream must be closed in the end. The error is an *Error with
// CodeInvalidArgument that names everything that is wrong with cfg.
//
// ctx is the life of the stream: when it ends, that is a Close.
func Open(ctx context.Context, cfg Config) (*Stream, error) { return open(ctx, cfg, false) }

// Tail follows one source, from now on or from where cfg says. It is like
// Open otherwise. A tail has no acks: Batch.Ack only says that Cursor may move
// on, and so does the next Recv.
func Tail(ctx context.Context, cfg Config) (*Stream, error) { return open(ctx, cfg, true) }

func open(ctx context.Context, cfg Config, tail bool) (*Stream, error) {
	addr, err := cfg.validate(tail)
	if err != nil {
		return nil, err
	}
	s := &Stream{
		cfg: cfg, addr: addr, session: stream.NewSession().ID, passes: tail || cfg.AutoAck,
		acks: make(chan struct{}, 1), some: make(chan struct{}, 1), room: make(chan struct{}, 1),
		quit: make(chan struct{}), bye: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{}),
		status: Status{Since: time.Now()},
	}
	cursor, err := decodeCursor(cfg.Cursor)
	if err != nil {
		return nil, &Error{Code: CodeInvalidArgument, Err: err} // validate has seen it
	}
	s.place = stream.NewPlace(cursor, tail)
	if s.passes {
		s.read = stream.NewPlace(cursor, tail)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.live(ctx, life)
	return s, nil
}

// live runs the stream's two goroutines. The end of parent closes the stream,
// that of ctx is the end.
func (s *Stream) live(parent, ctx context.Context) {
	defer close(s.done)
	// Who calls Close as well gets its error.
	defer context.AfterFunc(parent, func() { _ = s.Close() })()
	var acker sync.WaitGroup
	acker.Go(func() { s.sendAcks(ctx) })
	s.err = s.run(ctx)
	close(s.ended)
	s.cancel()
	acker.Wait()
}

// Recv returns the next batch. It blocks until there is one, ctx ends, whose
// error it then returns and which leaves the stream as it was, or the stream
// is over: then it returns the same *Error every time.
func (s *Stream) Recv(ctx context.Context) (*Batch, error) {
	over := false
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s.quitting() {
			<-s.ended
			return nil, s.err
		}
		b, live := s.take(first)
		if live {
			s.notify(Notice{Kind: Live})
			continue
		}
		switch {
		case b != nil:
			return b, nil
		case over:
			return nil, s.err
		}
		select {
		case <-s.some:
		case <-ctx.Done():
		case <-s.quit:
		case <-s.ended:
			over = true // but for what has been received before
		}
	}
}

// take returns the next batch that was received, or nil. first says that Recv
// has just been called: what it has returned before is consumed, if it passes.
func (s *Stream) take(first bool) (b *Batch, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first && s.last != nil {
		s.consumed(s.last)
		s.last = nil
	}
	s.waiting = false
	for len(s.ahead) > 0 {
		it := s.ahead[0]
		s.ahead[0] = item{}
		s.ahead = s.ahead[1:]
		s.bytes -= it.size()
		signal(s.room)
		s.note(it)
		if it.live {
			return nil, true
		}
		if it.batch == nil {
			continue
		}
		s.status.Unacked++
		if s.passes {
			s.last = it.batch
		}
		return it.batch, false
	}
	s.waiting = true
	return nil, false
}

// hand gives an item to Recv. It blocks while too much is read ahead.
func (s *Stream) hand(it item) error {
	limit := s.cfg.ReadAhead
	if limit <= 0 {
		limit = defaultReadAhead
	}
	for {
		s.mu.Lock()
		switch {
		case it.batch == nil && !it.live && len(s.ahead) == 0 && (s.waiting || !s.passes):
			s.note(it) // Recv has got there already
			s.mu.Unlock()
			return nil
		case len(s.ahead) == 0 || s.bytes+it.size() <= limit:
			s.ahead = append(s.ahead, it)
			s.bytes += it.size()
			s.mu.Unlock()
			signal(s.some)
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.quit:
			return errClosed
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// note takes note of an item; mu is held.
func (s *Stream) note(it item) {
	switch {
	case it.batch != nil:
		s.place.Receive(&it.batch.delivery, it.link)
	case it.position != nil:
		s.place.Told(it.position, it.link)
	}
	for _, f := range it.fins {
		s.place.Finish(f.GetDoppler(), f.GetEpoch())
	}
}

// Cursor returns where to continue after everything that is acked, for
// Config.Cursor of a later stream with the same selectors. With AutoAck, and
// on a tail, a batch counts as acked when Recv is called again. It is opaque,
// safe in URLs and files, grants no rights, and is empty as long as nothing is
// known.
func (s *Stream) Cursor() string {
	s.mu.Lock()
	c := s.place.Cursor()
	s.mu.Unlock()
	return encodeCursor(c)
}

// encodeCursor and decodeCursor let the empty string stand for no place.
func encodeCursor(c *streampb.Cursor) string {
	if len(c.GetEntries()) == 0 {
		return ""
	}
	return stream.EncodeCursor(c)
}

func decodeCursor(s string) (*streampb.Cursor, error) {
	if s == "" {
		return &streampb.Cursor{}, nil
	}
	return stream.DecodeCursor(s)
}

// Status returns a snapshot.
func (s *Stream) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Close tells the server what was acked, says goodbye and waits until nothing
// of the stream runs any more, which takes at most a few seconds. A waiting
// Recv returns. The error is an *Error with CodeUnavailable when acks could
// not be sent any more: what they were for will be delivered again. A second
// Close waits for the first and returns the same.
func (s *Stream) Close() error {
	s.closing.Do(func() {
		close(s.quit)
		s.closeErr = s.lastAcks()
		s.mu.Lock()
		conn := s.conn
		s.mu.Unlock()
		if conn != nil {
			// The connection ends with it in any case.
			_ = conn.Close(stream.CloseNormal, "")
		}
		close(s.bye)
		s.cancel()
		<-s.done
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, it := range s.ahead {
			if it.batch != nil {
				it.batch.Release() // it will be delivered again
			}
		}
		s.ahead = nil
	})
	return s.closeErr
}
