package emit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

var batchSender = &grpc.StreamDesc{StreamName: "BatchSender", ClientStreams: true}

// link is one BatchSender stream.
type link struct {
	stream  grpc.ClientStream
	abort   context.CancelFunc
	timeout time.Duration
}

// openLink waits until the connection is there or cannot be made.
func openLink(ctx context.Context, conn *grpc.ClientConn, timeout time.Duration) (*link, error) {
	ctx, abort := context.WithCancel(ctx)
	stream, err := conn.NewStream(ctx, batchSender, loggregatorv2.Ingress_BatchSender_FullMethodName,
		grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		abort()
		return nil, plain(err)
	}
	return &link{stream: stream, abort: abort, timeout: timeout}, nil
}

// send blocks while the server takes no more. The error says why the stream
// ended.
func (l *link) send(batch []byte) error {
	err := l.stream.SendMsg(batch)
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		// The server has ended the stream; only reading tells why.
		if err = l.stream.RecvMsg(nil); err == nil {
			err = errors.New("the Doppler ended the stream")
		}
	}
	l.abort()
	return plain(err)
}

// finish half-closes the stream and waits for the server's last word.
func (l *link) finish() error {
	defer l.abort()
	if err := l.stream.CloseSend(); err != nil {
		return plain(err)
	}
	late := time.AfterFunc(l.timeout, l.abort)
	err := l.stream.RecvMsg(nil)
	if !late.Stop() && err != nil {
		return backoff.Permanent(fmt.Errorf("no confirmation within %s", l.timeout))
	}
	if err == nil || isEnd(err) {
		return nil
	}
	return plain(err)
}

// isEnd recognises how Loggregator's own servers answer the end of a stream:
// with the error of their read, which is the end of file.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || status.Code(err) == codes.Unknown && status.Convert(err).Message() == io.EOF.Error()
}

// plain takes gRPC's wrapping off an error and marks the ones that trying
// again cannot help.
func plain(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	message := s.Message()
	for _, noise := range []string{"connection error: desc = ", "transport: Error while dialing: ", "transport: "} {
		message = strings.ReplaceAll(message, noise, "")
	}
	err = errors.New(strings.Trim(message, `"`))
	switch s.Code() {
	case codes.InvalidArgument, codes.ResourceExhausted, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		return backoff.Permanent(err)
	}
	return err
}

// reconnect opens a new stream and sends the window on it, for as long as GiveUp
// allows; sentBefore batches of the window had been sent already. The caller
// holds mu.
func (s *Sender) reconnect(cause error, sentBefore int) error {
	s.link = nil
	var permanent *backoff.PermanentError
	if errors.As(cause, &permanent) || s.ctx.Err() != nil {
		return s.lost(cause)
	}
	s.cfg.Notice(fmt.Sprintf("Doppler %s is gone (%v); trying again for %.0f s", s.cfg.Addr, cause, s.cfg.GiveUp.Seconds()))
	s.cfg.Observer.Broken(s.stats.Confirmed, s.stats.Confirmed+s.windowed())
	err := backoff.Retry(s.resend, backoff.WithContext(s.patience(), s.ctx))
	if err != nil {
		return s.lost(err)
	}
	s.noteResent(sentBefore)
	s.cfg.Observer.Mended()
	return nil
}

// windowed is the number of envelopes in the window.
func (s *Sender) windowed() uint64 {
	n := uint64(0)
	for _, b := range s.window {
		n += uint64(b.count)
	}
	return n
}

func (s *Sender) patience() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(2*time.Second),
		backoff.WithMaxElapsedTime(s.cfg.GiveUp),
	)
}

func (s *Sender) resend() error {
	s.conn.ResetConnectBackoff()
	l, err := openLink(s.ctx, s.conn, s.cfg.ConfirmTimeout)
	if err != nil {
		return err
	}
	for _, b := range s.window {
		if err := l.send(b.batch); err != nil {
			return err
		}
	}
	s.link = l
	return nil
}

func (s *Sender) noteResent(batches int) {
	again := uint64(0)
	for _, b := range s.window[:batches] {
		again += uint64(b.count)
	}
	s.stats.Resent += again
	if again == 0 {
		s.cfg.Notice(fmt.Sprintf("Doppler %s is back", s.cfg.Addr))
		return
	}
	s.cfg.Notice(fmt.Sprintf("Doppler %s is back; %d unconfirmed envelopes sent again, so up to %d may be there twice",
		s.cfg.Addr, again, again))
}

// lost is the final error.
func (s *Sender) lost(cause error) error {
	unknown := s.stats.Taken - s.stats.Confirmed
	return fmt.Errorf("gave up on the Doppler at %s with %d envelopes confirmed and %d not: %w",
		s.cfg.Addr, s.stats.Confirmed, unknown, cause)
}
