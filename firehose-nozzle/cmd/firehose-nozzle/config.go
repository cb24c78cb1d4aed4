package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/firehose-nozzle/cmd/firehose-nozzle/internal/encode"
	"github.com/a1ea6966/loggregator/internal/daemon"
)

// config is what operators set.
type config struct {
	addr         string
	subscription string
	types        []string
	sourceIDs    []string
	names        []string
	tlsCA        string
	tlsSkip      bool
	tokenFile    string

	sink        string
	format      string
	file        string
	fsync       string
	rotateBytes int64
	rotateAge   time.Duration
	keep        int
	cursorFile  string

	adminAddr  string
	drainGrace time.Duration
	deadAfter  time.Duration
	maxRetries int
	maxOutage  time.Duration
}

func defaults() *config {
	return &config{
		addr: "ws://127.0.0.1:8081", sink: "stdout", format: "json", fsync: "always",
		adminAddr: "127.0.0.1:9084", drainGrace: 10 * time.Second, deadAfter: 15 * time.Second,
	}
}

// Flags declares the settings.
func (c *config) Flags(f *daemon.Flags) {
	f.Group("Firehose")
	f.String(&c.addr, "addr", "`url` of the Traffic Controller: ws, wss, http, https, or host:port")
	f.String(&c.subscription, "subscription", "`name` of the subscription; all nozzles of one name share it")
	f.Strings(&c.types, "type", "envelope `type` to read (log, counter, gauge, timer, event), may be repeated; all unless given")
	f.Strings(&c.sourceIDs, "source-id", "source `id` to read, may be repeated; all unless given")
	f.Strings(&c.names, "name-filter", "`name` of a counter, timer or metric to read, may be repeated; all unless given")
	f.String(&c.cursorFile, "cursor-file", "`file` to keep the place in the stream in, for restarts after a long time")
	f.String(&c.tlsCA, "tls-ca", "PEM `file` of certificate authorities to trust instead of the system's")
	f.Bool(&c.tlsSkip, "tls-skip-verify", "INSECURE: trust any server, whoever it is")
	f.String(&c.tokenFile, "token-file", "`file` with the access token; read before every connection and when the token is about to end")
	f.Group("Sink")
	f.String(&c.sink, "sink", "where lines go: stdout or file")
	f.String(&c.format, "format", "form of a line: json or text")
	f.String(&c.file, "file", "`path` of the file to write to")
	f.String(&c.fsync, "fsync", "when lines of a file are made durable: always (before they are acked) or never (left to the system)")
	f.Bytes(&c.rotateBytes, "rotate-bytes", "size at which a new file begins; 0 for never")
	f.Duration(&c.rotateAge, "rotate-age", "a new file begins at each full period since midnight UTC; 0 for never")
	f.Int(&c.keep, "keep", "rotated files that remain; 0 for all")
	f.Group("Process")
	f.String(&c.adminAddr, "admin-addr", "`address` for /metrics, /health, /ready and /debug/pprof")
	f.Duration(&c.drainGrace, "drain-grace", "how long the sink may take, on SIGTERM, for what was received")
	f.Duration(&c.deadAfter, "dead-after", "how long nothing may be heard of the Firehose before /healthz says so")
	f.Int(&c.maxRetries, "max-retries", "tries to connect that may fail in a row before the nozzle ends with exit code 1; 0 for no limit")
	f.Duration(&c.maxOutage, "max-outage", "how long they may fail before it does; 0 for no limit")
}

// Validate names all faults at once.
func (c *config) Validate() error {
	var faults daemon.Faults
	scheme, host := split(c.addr)
	if !slices.Contains([]string{"ws", "wss", "http", "https"}, scheme) || host == "" {
		faults.Addf("addr", quote(c.addr), "must be a ws, wss, http or https URL, or host:port")
	} else if scheme != "wss" && scheme != "https" && (c.tlsCA != "" || c.tlsSkip) {
		faults.Addf("addr", quote(c.addr), "must be wss or https when --tls-ca or --tls-skip-verify is given")
	}
	if c.subscription == "" {
		faults.Addf("subscription", quote(c.subscription), "must not be empty")
	}
	if _, err := envelope.MaskOf(c.types...); err != nil {
		faults.Addf("type", strings.Join(c.types, ","), "%v", err)
	}
	if c.tlsCA != "" {
		if _, err := c.roots(); err != nil {
			faults.Addf("tls-ca", quote(c.tlsCA), "%v", err)
		}
		if c.tlsSkip {
			faults.Addf("tls-skip-verify", c.tlsSkip, "contradicts --tls-ca")
		}
	}
	if c.tokenFile != "" {
		if _, err := c.header(context.Background()); err != nil {
			faults.Addf("token-file", quote(c.tokenFile), "%v", err)
		}
	}
	c.validateSink(&faults)
	faults.Address("admin-addr", c.adminAddr)
	daemon.Between(&faults, "drain-grace", c.drainGrace, 0, time.Hour)
	daemon.Between(&faults, "dead-after", c.deadAfter, time.Second, time.Hour)
	daemon.Between(&faults, "max-retries", c.maxRetries, 0, 1_000_000)
	daemon.Between(&faults, "max-outage", c.maxOutage, 0, 366*24*time.Hour)
	return faults.Err()
}

func (c *config) validateSink(faults *daemon.Faults) {
	oneOf := func(flag, value string, all ...string) {
		if !slices.Contains(all, value) {
			faults.Addf(flag, quote(value), "must be one of %s", strings.Join(all, ", "))
		}
	}
	oneOf("sink", c.sink, "stdout", "file")
	oneOf("format", c.format, encode.Formats()...)
	oneOf("fsync", c.fsync, "always", "never")
	if (c.sink == "file") != (c.file != "") {
		faults.Addf("file", quote(c.file), "goes with --sink file, and --sink file with it")
	}
	if c.sink != "file" && (c.rotateBytes != 0 || c.rotateAge != 0 || c.keep != 0) {
		faults.Addf("sink", quote(c.sink), "does not rotate: --rotate-bytes, --rotate-age and --keep are for --sink file")
	}
	if c.rotateBytes != 0 {
		faults.BytesBetween("rotate-bytes", c.rotateBytes, 4<<10, 1<<50)
	}
	if c.rotateAge != 0 {
		daemon.Between(faults, "rotate-age", c.rotateAge, time.Second, 366*24*time.Hour)
	}
	daemon.Between(faults, "keep", c.keep, 0, 1_000_000)
	if c.keep > 0 && c.rotateBytes == 0 && c.rotateAge == 0 {
		faults.Addf("keep", c.keep, "nothing rotates without --rotate-bytes or --rotate-age")
	}
}

// split returns scheme and host of an address, empty if it has none.
func split(addr string) (scheme, host string) {
	if !strings.Contains(addr, "://") {
		addr = "ws://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil {
		return "", ""
	}
	return u.Scheme, u.Host
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

// tls is the configuration for the Firehose.
func (c *config) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.tlsSkip}
	if c.tlsCA == "" {
		return conf, nil
	}
	var err error
	conf.RootCAs, err = c.roots()
	return conf, err
}

func (c *config) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.tlsCA)
	if err != nil {
		return nil, fmt.Errorf("read certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", c.tlsCA)
	}
	return pool, nil
}

// header shows the token, if there is one, with or without its scheme in the
// file.
func (c *config) header(context.Context) (http.Header, error) {
	if c.tokenFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case token == "" || strings.ContainsAny(token, "\r\n"):
		return nil, fmt.Errorf("%s has to hold one line, the token", c.tokenFile)
	case !strings.Contains(token, " "):
		token = "bearer " + token
	}
	return http.Header{"Authorization": {token}}, nil
}

// selection says in canonical form what is read.
func (c *config) selection() string {
	sorted := func(s []string) []string {
		s = slices.Clone(s)
		slices.Sort(s)
		return slices.Compact(s)
	}
	return url.Values{
		"subscription": {c.subscription}, "type": sorted(c.types),
		"source_id": sorted(c.sourceIDs), "name": sorted(c.names),
	}.Encode()
}
