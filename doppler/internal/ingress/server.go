// Package ingress takes envelopes in: the gRPC services loggregator.v2.Ingress
// and, of older agents, plumbing.DopplerIngestor. What the latter pushes becomes
// an envelope of the former's kind first, by the rules of package dropsonde.
//
// Messages are never decoded. A codec hands over their bytes, one pass finds
// and checks the envelopes in them, and an Appender copies those. What is
// malformed or over a limit is dropped and counted; its neighbours are kept
// and the stream lives on.
//
// # What bounds memory
//
// Config.Bytes is spent in two halves. One pays for streams: for each a window
// that may be sent and not taken yet, and what gRPC needs for a stream and its
// connection. A stream for which nothing is left is refused, and so is a
// connection. The other half pays for the buffers of frames above 1 KiB: while
// it is used up, connections are not read on (see pool), so TCP holds the
// producers back. It is larger than all windows together, so it only comes to
// that with messages larger than the window, of which gRPC lets each stream
// send one. The kernel's buffers hold no more than a window, or 256 KiB if
// that is more, per connection. Outside the budget are frames smaller than 56
// bytes, which may cost twice what they hold, and one workspace per CPU, which
// grows to the largest message seen and shrinks again.
package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// Appender takes envelopes for good.
type Appender interface {
	// Append copies the envelopes that recs index out of msg; both are the
	// caller's again when it returns. It is called concurrently and must not
	// wait for readers. The result, the first envelope's offset, is not used.
	Append(msg []byte, recs []envelope.Record) uint64
}

// Limiter holds sources to a rate.
type Limiter interface {
	// Admit leaves out of recs, which index msg, what is over the limit of its
	// source at now, in nanoseconds since any moment, and returns the rest in the
	// same memory. It is called concurrently and must not wait.
	Admit(now int64, msg []byte, recs []envelope.Record) []envelope.Record
}

// Config is what New needs. Every field but Limiter, TLS, Allow, HandshakeFailed and Log must be set.
type Config struct {
	// MaxMessage is the largest gRPC message, in bytes. A larger one ends its
	// stream with RESOURCE_EXHAUSTED.
	MaxMessage int
	// Bytes is the memory for what has been received and not yet taken; see
	// the package comment.
	Bytes int64
	// Window is how many bytes of a stream may have been sent and not been
	// taken: at least MinWindow. A larger one costs a producer that sends large
	// batches fewer pauses and the server fewer window updates; a smaller one
	// leaves Bytes for more streams.
	Window int
	// Limits are those of envelopes.
	Limits envelope.Limits
	// Limiter, if set, says what of each source is taken.
	Limiter Limiter
	// DrainWait is how long Run waits for producers to pause when it ends.
	DrainWait time.Duration
	// TLS, if set, makes the listener speak it.
	TLS *tls.Config
	// Allow, if set, is asked for each call of any service before it begins, and
	// must not wait; its error is the answer. ctx has the gRPC peer.
	Allow func(ctx context.Context, method string) error
	// HandshakeFailed, if set, is told of clients with which TLS did not come about.
	// It is called concurrently.
	HandshakeFailed func(remote, why string)
	// Log hears about refused streams. Nil: nothing is logged.
	Log *slog.Logger
}

const (
	// MinWindow is the least Config.Window; gRPC allows no less.
	MinWindow = 64 << 10
	// minConnWindow is the same for a connection, but renewed as bytes arrive:
	// it bounds what lies in the kernel's buffers.
	minConnWindow = 256 << 10
	// Per connection. To producers only window updates and the like are
	// written; gRPC has a buffer for writing only while it writes.
	readBuffer  = 32 << 10
	writeBuffer = 64 << 10
	// streamCost is what a stream costs at most beside its window, with a
	// connection of its own.
	streamCost = readBuffer + 16<<10
	// bufferPatience is how long a connection waits for room in the pool
	// while no room is made at all.
	bufferPatience = 100 * time.Millisecond
	// A draining server looks this often at every stream, and takes one on
	// which nothing happened so many times for pausing. A busy machine may be
	// slow to wake a stream that has something to take.
	quietPoll  = 10 * time.Millisecond
	quietPolls = 5
	// lastWait bounds what is left to do when streams have ended.
	lastWait = time.Second
	// MinBytes is the least Config.Bytes: room for 8 streams with MinWindow.
	MinBytes = 16 * (MinWindow + streamCost)
)

// BytesNeeded is the least Config.Bytes with a window: room for 8 streams.
func BytesNeeded(window int) int64 { return 16 * (int64(window) + streamCost) }

// Server is the gRPC server of a Doppler. Its methods may be called
// concurrently.
type Server struct {
	// static
	cfg        Config
	to         Appender
	log        *slog.Logger
	grpc       *grpc.Server
	pool       *pool
	maxStreams int
	workspaces chan *workspace
	began      time.Time // of the Limiter's clock

	conns     atomic.Int64
	receivers sync.WaitGroup
	serving   sync.WaitGroup

	mu       sync.Mutex
	streams  map[*stream]struct{}
	past     [numFramings]counters // of streams that are gone
	opened   uint64
	refused  uint64
	draining bool
}

// New returns a server that appends to to. Other services may be registered
// on GRPC before Run.
func New(cfg Config, to Appender) (*Server, error) {
	if cfg.Window < MinWindow {
		return nil, fmt.Errorf("ingress window %d: at least %d bytes are needed", cfg.Window, MinWindow)
	}
	if need := BytesNeeded(cfg.Window); cfg.Bytes < need {
		return nil, fmt.Errorf("ingress bytes %d: at least %d are needed with a window of %d", cfg.Bytes, need, cfg.Window)
	}
	if cfg.MaxMessage <= 0 {
		return nil, fmt.Errorf("largest ingress message %d: must be positive", cfg.MaxMessage)
	}
	if cfg.Limits.MaxEnvelope <= 0 {
		cfg.Limits.MaxEnvelope = envelope.DefaultMaxEnvelope
	}
	s := &Server{
		cfg: cfg, to: to, log: cfg.Log,
		pool:       newPool(cfg.Bytes/2, bufferPatience),
		maxStreams: int(cfg.Bytes / 2 / (int64(cfg.Window) + streamCost)),
		workspaces: make(chan *workspace, runtime.GOMAXPROCS(0)),
		streams:    make(map[*stream]struct{}),
		began:      time.Now(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for range cap(s.workspaces) {
		s.workspaces <- &workspace{records: make([]envelope.Record, 0, recordsPerAppend)}
	}
	s.grpc = grpc.NewServer(s.options()...)
	s.grpc.RegisterService(s.service(), nil)
	s.grpc.RegisterService(s.ingestor(), nil)
	return s, nil
}

func (s *Server) connWindow() int { return max(s.cfg.Window, minConnWindow) }

func (s *Server) options() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(s.cfg.MaxMessage),
		// Room beyond our own limit, so that its answer is ours.
		grpc.MaxConcurrentStreams(uint32(s.maxStreams) + 100),
		// Fixed windows also turn off the estimator that would grow them.
		grpc.StaticStreamWindowSize(int32(s.cfg.Window)),
		grpc.StaticConnWindowSize(int32(s.connWindow())),
		grpc.ReadBufferSize(readBuffer),
		grpc.WriteBufferSize(writeBuffer),
		grpc.ConnectionTimeout(10 * time.Second),
		experimental.BufferPool(s.pool),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// A producer that vanished must not hold its stream for ever.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
	}
	if s.cfg.Allow != nil {
		options = append(options, grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
			return ctx, s.cfg.Allow(ctx, call.FullMethodName)
		}))
	}
	if s.cfg.TLS != nil {
		creds := credentials.NewTLS(s.cfg.TLS)
		if s.cfg.HandshakeFailed != nil {
			creds = telling{creds, s.cfg.HandshakeFailed}
		}
		options = append(options, grpc.Creds(creds))
	}
	return options
}

func (s *Server) stream(framing Framing) grpc.StreamHandler {
	return func(_ any, calls grpc.ServerStream) error { return s.handle(calls, framing) }
}

func (s *Server) service() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "loggregator.v2.Ingress",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Send", Handler: s.send}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Sender", Handler: s.stream(Single), ClientStreams: true},
			{StreamName: "BatchSender", Handler: s.stream(Batched), ClientStreams: true},
		},
		Metadata: "loggregator/v2/ingress.proto",
	}
}

// ingestor is the service of agents that know dropsonde only.
func (s *Server) ingestor() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "plumbing.DopplerIngestor",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "Pusher", Handler: s.stream(Pushed), ClientStreams: true}},
		Metadata:    "plumbing/doppler.proto",
	}
}

// send is the unary call with one batch.
//
//nolint:revive // gRPC decides the order of a handler's parameters
func (s *Server) send(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	str, err := s.admit(Batched)
	if err != nil {
		return nil, err
	}
	defer s.release(str)
	var m message
	if err := decode(&m); err != nil {
		if status.Code(err) == codes.ResourceExhausted {
			str.messageTooLarge.Add(1)
		}
		return nil, err
	}
	str.takeBatch(&m)
	str.messages.Add(1)
	m.free()
	return reply{}, nil
}

// GRPC is the server underneath, to register other services on before Run.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// Stats returns what was counted up to now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		Streams: len(s.streams), StreamsOpened: s.opened, StreamsRefused: s.refused,
		BufferBytes: s.pool.held.Load(), BufferWaits: s.pool.waits.Load(), BufferOverdrafts: s.pool.overdrawn.Load(),
	}
	for framing := range s.past {
		s.past[framing].addTo(&stats, Framing(framing))
	}
	for str := range s.streams {
		str.addTo(&stats, str.framing)
	}
	return stats
}

// MaxStreams is how many calls may be open at a time.
func (s *Server) MaxStreams() int { return s.maxStreams }

func errDraining() error {
	return status.Error(codes.Unavailable, "this Doppler is leaving, go to another one")
}

func (s *Server) admit(framing Framing) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		s.refused++
		return nil, errDraining()
	}
	if len(s.streams) >= s.maxStreams {
		s.refused++
		s.log.Warn("ingress stream refused", "open", len(s.streams), "limit_bytes", s.cfg.Bytes)
		return nil, status.Errorf(codes.ResourceExhausted,
			"%d ingress streams are open, which is all that %d bytes of ingress memory (--ingress-bytes) allow",
			len(s.streams), s.cfg.Bytes)
	}
	str := &stream{server: s, framing: framing, ended: make(chan struct{})}
	s.opened++
	s.streams[str] = struct{}{}
	s.receivers.Add(1)
	return str, nil
}

func (s *Server) release(str *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, str)
	s.past[str.framing].add(&str.counters)
	s.receivers.Done()
}

// Run serves l until ctx ends, then drains and returns: new streams are
// refused, and open ones end with UNAVAILABLE when they pause, which is soon,
// or else after DrainWait. Either way all that was read of them is appended
// first. When Run returns nothing is appended any more. It closes l. Calls of
// other services are served on until Stop, which has to follow.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	conns := &listener{
		Listener: l, limit: int64(s.maxStreams), open: &s.conns, log: s.log,
		paused: make(chan struct{}), resume: make(chan struct{}),
	}
	served := make(chan error, 1)
	s.serving.Go(func() { served <- s.grpc.Serve(conns) })
	select {
	case err := <-served:
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.drain(conns)
	return nil
}

// Stop ends what is left of calls and connections. It waits a little for
// those that are about to end by themselves.
func (s *Server) Stop() {
	stopped := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(stopped)
	}()
	// The last answers are on their way; a peer that does not take them must
	// not hold us up.
	select {
	case <-stopped:
	case <-time.After(lastWait):
		s.grpc.Stop()
		<-stopped
	}
	s.serving.Wait()
}

func (s *Server) drain(conns *listener) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	// Tells clients to open their next stream elsewhere, and returns when the
	// last connection is closed.
	s.serving.Go(s.grpc.GracefulStop)
	if !s.endQuietStreams(s.cfg.DrainWait) {
		// Who never pauses is no longer read.
		close(conns.paused)
		s.endQuietStreams(lastWait)
	}
	s.endStreams(true)
	s.receivers.Wait()
	close(conns.resume) // to part with the peers in good form
}

// endQuietStreams returns whether it could end all streams in time.
func (s *Server) endQuietStreams(limit time.Duration) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(quietPoll)
	defer poll.Stop()
	for s.endStreams(false) > 0 {
		select {
		case <-poll.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// endStreams ends the streams that pause, or all of them, and returns how many
// are left.
func (s *Server) endStreams(all bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := 0
	for str := range s.streams {
		if str.gone {
			continue
		}
		if str.quiet++; !str.idle() {
			str.quiet = 0
		}
		if !all && str.quiet < quietPolls {
			left++
			continue
		}
		str.gone = true
		close(str.ended)
	}
	return left
}
