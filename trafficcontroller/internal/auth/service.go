package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Bounds of one service.
const (
	maxConnections  = 256 // to one service; more questions wait within their time
	maxIdle         = 32  // connections kept
	idleFor         = 90 * time.Second
	maxAnswerBytes  = 1 << 20  // of everything but lists
	maxListBytes    = 64 << 20 // of one page, which is read without being held
	maxHeaderAnswer = 64 << 10
)

// service is UAA, or one of Cloud Controller's APIs.
type service struct {
	base   string // URL without a slash at its end
	client *http.Client
}

// newService returns a client that follows no redirect and uses no proxy: what
// it carries is for this service alone.
func newService(base string, config *tls.Config, timeout time.Duration) *service {
	return &service{base: strings.TrimRight(base, "/"), client: &http.Client{
		Transport: &http.Transport{
			// A dial may outlive the question that it was for.
			DialContext: (&net.Dialer{Timeout: timeout}).DialContext, TLSHandshakeTimeout: timeout,
			TLSClientConfig: config, MaxConnsPerHost: maxConnections, MaxIdleConnsPerHost: maxIdle,
			IdleConnTimeout: idleFor, MaxResponseHeaderBytes: maxHeaderAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// unverified is config for any server certificate.
func unverified(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.InsecureSkipVerify, config.VerifyConnection = true, nil
	return config
}

// call sends a request and has its answer read, and notes how it went. No
// error shows the token.
func (a *Auth) call(which Call, s *service, r *http.Request, token string, read func(*http.Response) error) error {
	start := time.Now()
	err := exchange(s, r, read)
	if err != nil {
		err = scrubbed{fmt.Sprintf("ask %s: %v", which, err), err}
		for _, secret := range []string{token, bare(token), a.cfg.UAASecret} {
			err = scrub(err, secret)
		}
	}
	a.stats.called(which, time.Since(start), err != nil)
	if err != nil && !errors.Is(err, context.Canceled) {
		a.stats.calls[which].gate.warn(a.log, err)
	}
	return err
}

func exchange(s *service, r *http.Request, read func(*http.Response) error) error {
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := read(resp); err != nil {
		return err
	}
	// A server that is told of the time being up may end an answer that it was
	// in the middle of, and nobody could tell it from a whole one.
	return r.Context().Err()
}

// scrubbed is an error whose text was cleaned of secrets.
type scrubbed struct {
	text string
	err  error
}

func (s scrubbed) Error() string { return s.text }
func (s scrubbed) Unwrap() error { return s.err }

// scrub takes a secret out of the text of an error, where a server put it.
func scrub(err error, secret string) error {
	if secret == "" || !strings.Contains(err.Error(), secret) {
		return err
	}
	return scrubbed{strings.ReplaceAll(err.Error(), secret, "[secret]"), errors.Unwrap(err)}
}

// readAll reads an answer of bounded size in full.
func readAll(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(body) > maxAnswerBytes {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswerBytes)
	}
	return body, nil
}
