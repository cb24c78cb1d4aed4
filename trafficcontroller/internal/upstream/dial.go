package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
)

// IdleTimeout is how long a Doppler may be silent until it has said how often
// it gives a sign of life.
const IdleTimeout = 10 * time.Second

const (
	dialTimeout    = 5 * time.Second
	historyTimeout = 10 * time.Second
	maxHistory     = 64 << 20 // bytes of an answer
)

// Dialer opens connections to Dopplers. It may be used concurrently.
type Dialer struct {
	tls    *tls.Config // nil for plaintext
	buffer int
	client *http.Client
}

// NewDialer returns a Dialer; config is nil for plaintext.
func NewDialer(config *tls.Config, socketBuffer int) *Dialer {
	return &Dialer{tls: config, buffer: socketBuffer, client: &http.Client{
		Timeout: historyTimeout,
		Transport: &http.Transport{
			TLSClientConfig: config, MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second,
		},
	}}
}

// Close closes idle connections.
func (d *Dialer) Close() { d.client.CloseIdleConnections() }

func (d *Dialer) url(addr, path string, query url.Values) string {
	scheme := "http"
	if d.tls != nil {
		scheme = "https"
	}
	u := scheme + "://" + addr + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// Stream opens a WebSocket to a path of the Doppler at addr.
func (d *Dialer) Stream(ctx context.Context, addr, path string, query url.Values) (*stream.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return stream.Dial(ctx, d.url(addr, path, query), stream.DialOptions{
		TLS: d.tls, SocketBuffer: d.buffer, ReadLimit: stream.DefaultClientReadLimit,
	})
}

// Get reads the body of a plain answer.
func (d *Dialer) Get(ctx context.Context, addr, path string, query url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url(addr, path, query), nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxHistory+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read answer of %s: %w", addr, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered %s: %s", addr, resp.Status, strings.TrimSpace(string(body[:min(len(body), 256)])))
	case len(body) > maxHistory:
		return nil, fmt.Errorf("answer of %s is over %d bytes", addr, maxHistory)
	}
	return body, nil
}

// History reads the history of a source; it is a fanout.Fetch.
func (d *Dialer) History(ctx context.Context, addr, source string, query map[string][]string) ([]byte, error) {
	return d.Get(ctx, addr, stream.PathHistory+url.PathEscape(source), query)
}

// Held reads what the Doppler at addr holds of its sources.
func (d *Dialer) Held(ctx context.Context, addr string) ([]byte, error) {
	return d.Get(ctx, addr, strings.TrimSuffix(stream.PathHistory, "/"), nil)
}
