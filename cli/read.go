package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// userAgent is what servers show of us to operators.
const userAgent = "lgr/1"

// eventsAhead is how much is read before it is shown.
const eventsAhead = 64

// readerFlags say where to read.
type readerFlags struct {
	Addr         string   `env:"LGR_ADDR" default:"http://127.0.0.1:8081" placeholder:"URL" help:"The Traffic Controller (default ${default})."`
	Token        string   `env:"LGR_TOKEN" placeholder:"TOKEN" help:"Access token, as cf oauth-token prints it; better given in the environment."`
	TokenFile    string   `env:"LGR_TOKEN_FILE" placeholder:"FILE" help:"File with the access token, read before every connection and when the token is about to end."`
	TokenCommand string   `env:"LGR_TOKEN_COMMAND" placeholder:"COMMAND" help:"Command that prints an access token, run by sh as often: 'cf oauth-token'."`
	TLS          tlsFlags `embed:"" group:"tls"`
}

func (f *readerFlags) check() error {
	base, err := baseURL(f.Addr)
	f.Addr = base
	var tokens error
	if more(f.Token != "", f.TokenFile != "", f.TokenCommand != "") {
		tokens = errors.New("--token, --token-file and --token-command: one of them only")
	}
	return errors.Join(err, tokens, f.TLS.check())
}

// more tells whether more than one is set.
func more(set ...bool) bool {
	n := 0
	for _, s := range set {
		if s {
			n++
		}
	}
	return n > 1
}

// config is what all streams have in common.
func (f *readerFlags) config(ctx context.Context) (nozzle.Config, error) {
	trust, err := f.TLS.outside()
	if err != nil {
		return nozzle.Config{}, err
	}
	if _, err := f.header(ctx); err != nil {
		if ctx.Err() != nil {
			err = errInterrupted
		}
		return nozzle.Config{}, err
	}
	return nozzle.Config{Addr: f.Addr, TLS: trust, Header: f.header}, nil
}

// header is what goes with every handshake. Where the token comes from is asked
// again each time.
func (f *readerFlags) header(ctx context.Context) (header http.Header, err error) {
	switch {
	case f.TokenFile != "":
		header, err = tokenFrom(f.TokenFile)
	case f.TokenCommand != "":
		header, err = tokenOf(ctx, f.TokenCommand, commandTimeout)
	default:
		header = authorization(f.Token)
	}
	if err != nil {
		return nil, err
	}
	if header == nil {
		header = http.Header{}
	}
	header.Set("User-Agent", userAgent)
	return header, nil
}

const (
	// commandTimeout is how long a --token-command may take.
	commandTimeout = 30 * time.Second
	// pipeTimeout is how long is waited for what it has printed when it has ended:
	// what it has started may keep the pipe open.
	pipeTimeout = time.Second
)

// tokenOf is the header of the token that a command prints within limit. What it
// prints on stdout is never shown: it may be secret. Its stderr is ours.
func tokenOf(ctx context.Context, command string, limit time.Duration) (http.Header, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(bounded, "sh", "-c", command)
	cmd.Stderr, cmd.WaitDelay = os.Stderr, pipeTimeout
	killAll(cmd)
	text, err := cmd.Output()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return oneToken(string(text), "--token-command has to print")
	case ctx.Err() != nil:
		err = ctx.Err()
	case bounded.Err() != nil:
		err = fmt.Errorf("it took longer than %s", limit)
	}
	return nil, fmt.Errorf("--token-command: %w", err)
}

// tokenFrom is the header of the token that a file holds.
func tokenFrom(file string) (http.Header, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	return oneToken(string(text), "--token-file "+file+" has to hold")
}

func oneToken(text, where string) (http.Header, error) {
	token := strings.TrimSpace(text)
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return nil, fmt.Errorf("%s one line, the token", where)
	}
	return authorization(token), nil
}

// authorization is the header that shows a token, with or without its scheme.
func authorization(token string) http.Header {
	switch token = strings.TrimSpace(token); {
	case token == "":
		return nil
	case !strings.Contains(token, " "):
		token = "bearer " + token
	}
	return http.Header{"Authorization": {token}}
}

// event is something that happened on a stream; exactly one field besides
// from is set.
type event struct {
	from   int // number of the stream
	batch  *nozzle.Batch
	notice *nozzle.Notice
	said   string // for people, by something else than a stream
	tick   time.Time
	end    error
}

// reader reads streams, all into one channel, until it is closed.
type reader struct {
	streams []*nozzle.Stream
	events  chan event
	ctx     context.Context
	cancel  context.CancelFunc
	pumps   sync.WaitGroup
}

// openFunc is nozzle.Open or nozzle.Tail.
type openFunc func(context.Context, nozzle.Config) (*nozzle.Stream, error)

// openReader opens one stream per config. The end of ctx ends reading, but
// close has to follow.
func openReader(ctx context.Context, open openFunc, configs []nozzle.Config) (*reader, error) {
	r := &reader{events: make(chan event, eventsAhead)}
	r.ctx, r.cancel = context.WithCancel(ctx)
	for i, cfg := range configs {
		cfg.Notify = func(n nozzle.Notice) { r.send(event{from: i, notice: &n}) }
		// A stream must outlive ctx, to tell what was acked.
		s, err := open(context.WithoutCancel(ctx), cfg)
		if err != nil {
			return nil, errors.Join(fault(err), r.close())
		}
		r.streams = append(r.streams, s)
		r.pumps.Go(func() { r.pump(i, s) })
	}
	return r, nil
}

func (r *reader) pump(from int, s *nozzle.Stream) {
	for {
		b, err := s.Recv(r.ctx)
		if !r.send(event{from: from, batch: b, end: err}) || err != nil {
			return
		}
	}
}

// tickEvery adds an event at every interval.
func (r *reader) tickEvery(interval time.Duration) {
	r.pumps.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				r.send(event{tick: now})
			case <-r.ctx.Done():
				return
			}
		}
	})
}

func (r *reader) send(e event) bool {
	select {
	case r.events <- e:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// close ends all streams; what was acked is told the server. It takes at most
// a few seconds.
func (r *reader) close() error {
	r.cancel()
	r.pumps.Wait()
	faults := make([]error, len(r.streams))
	var closing sync.WaitGroup
	for i, s := range r.streams {
		closing.Go(func() { faults[i] = s.Close() })
	}
	closing.Wait()
	return errors.Join(faults...)
}

// each hands events to handle, which says when it has enough, until ctx ends.
// When none is at hand it calls idle before it waits.
func (r *reader) each(ctx context.Context, handle func(event) (enough bool, err error), idle func() error) error {
	for {
		var e event
		select {
		case e = <-r.events:
		default:
			if err := idle(); err != nil {
				return err
			}
			select {
			case e = <-r.events:
			case <-ctx.Done():
				return errInterrupted
			}
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
		enough, err := handle(e)
		if err != nil || enough {
			return errors.Join(err, idle())
		}
	}
}

// link tells a person about the connections of a reader.
type link struct {
	addr  string
	show  *show
	state []linkState
}

type linkState struct {
	once   bool      // there was a connection
	lostAt time.Time // zero while there is one
}

func newLink(addr string, w *show, streams int) *link {
	return &link{addr: addr, show: w, state: make([]linkState, streams)}
}

// take handles a notice or an end. There must be a server from the beginning:
// who mistyped an address wants to know. But it may be one that has not begun
// yet, or has too much to do.
func (l *link) take(e event) error {
	st := &l.state[e.from]
	switch {
	case e.end != nil:
		return fault(e.end)
	case e.notice == nil:
		return nil
	}
	switch n := e.notice; n.Kind {
	case nozzle.Connected:
		lost := st.lostAt
		st.once, st.lostAt = true, time.Time{}
		if !lost.IsZero() && l.lost() == 0 {
			return l.show.notice("connected to %s after %s", l.addr, time.Since(lost).Round(100*time.Millisecond))
		}
	case nozzle.Disconnected:
		if !st.once && !refused(n.Err) {
			return withHint(fmt.Errorf("cannot reach the Traffic Controller at %s: %w", l.addr, fault(n.Err)))
		}
		if st.lostAt.IsZero() {
			first := l.lost() == 0
			st.lostAt = time.Now()
			switch {
			case first && st.once:
				return l.show.notice("connection to %s lost (%v); trying again", l.addr, fault(n.Err))
			case first:
				return l.show.notice("%s does not take us yet (%v); trying again", l.addr, fault(n.Err))
			}
		}
	case nozzle.TokenRefused:
		if n.Attempt > 1 {
			return nil // it was told
		}
		return l.show.notice("the token could not be renewed (%v); trying again until the one before ends, and the stream with it", n.Err)
	case nozzle.DopplerLeft:
		return l.show.notice("Doppler %s has left; nothing of what it had is missing", n.Doppler)
	}
	return nil
}

// refused says that there is a server, and that it wants us to come back.
func refused(err error) bool {
	e := (*nozzle.Error)(nil)
	return errors.As(err, &e) && e.Status != 0
}

// lost is the number of streams without a connection.
func (l *link) lost() int {
	n := 0
	for _, st := range l.state {
		if !st.lostAt.IsZero() {
			n++
		}
	}
	return n
}

// withHint says what to do when nobody listens.
func withHint(err error) error {
	if strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
		return fmt.Errorf("%w (is it running? lgr up starts one)", err)
	}
	return err
}

// fault takes the SDK's wrapping off an error.
func fault(err error) error {
	if e := (*nozzle.Error)(nil); errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}
