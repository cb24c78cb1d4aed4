// Package upstream finds the Dopplers and talks to them: the set of addresses,
// kept current, the tail link to each, and reads of history.
package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

// Target is where Dopplers are found: an address, a DNS name that is resolved
// again and again, or a file that is read again and again.
type Target struct {
	spec string
	kind targetKind
	rest string
}

type targetKind int

const (
	static targetKind = iota
	byName
	byFile
)

// ParseTarget reads host:port, dns:///name:port or file:PATH.
func ParseTarget(spec string) (Target, error) {
	t := Target{spec: spec, rest: spec}
	switch {
	case strings.HasPrefix(spec, "dns:///"):
		t.kind, t.rest = byName, strings.TrimPrefix(spec, "dns:///")
	case strings.HasPrefix(spec, "file:"):
		t.kind, t.rest = byFile, strings.TrimPrefix(spec, "file:")
		if t.rest == "" {
			return t, fmt.Errorf("%q names no file", spec)
		}
		return t, nil
	}
	host, port, err := net.SplitHostPort(t.rest)
	if err != nil || host == "" || port == "" {
		return t, fmt.Errorf("%q is not host:port, dns:///name:port or file:PATH", spec)
	}
	return t, nil
}

// Resolver looks up names; net.DefaultResolver is one.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// lookup returns the addresses of the target now.
func (t Target) lookup(ctx context.Context, r Resolver) ([]string, error) {
	switch t.kind {
	case byName:
		host, port, _ := net.SplitHostPort(t.rest)
		ips, err := r.LookupHost(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", host, err)
		}
		addrs := make([]string, len(ips))
		for i, ip := range ips {
			addrs[i] = net.JoinHostPort(ip, port)
		}
		return addrs, nil
	case byFile:
		return readFile(t.rest)
	default:
		return []string{t.rest}, nil
	}
}

// readFile reads one address per line; # begins a comment.
func readFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read Dopplers: %w", err)
	}
	defer f.Close()
	var addrs []string
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(line); err != nil {
			return nil, fmt.Errorf("read Dopplers: %s line %d: %q is not host:port", path, n, line)
		}
		addrs = append(addrs, line)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read Dopplers: %w", err)
	}
	return addrs, nil
}

// Set is the set of Dopplers. The fields are set before Run.
type Set struct {
	Targets  []Target
	Interval time.Duration
	Resolver Resolver
	Log      *slog.Logger
	PeerLog  *daemon.QuietEach // by address
	// Peer is run for each address, until its context ends because the address
	// is gone or the set stops. gone tells which.
	Peer func(ctx context.Context, addr string)
	// Added and Removed are called one at a time; after Removed the Peer of
	// the address has returned. Stopping removes nothing.
	Added, Removed func(addr string)

	found atomic.Bool
	last  map[string][]string // by target: what it was when it could be had
	said  map[string]string   // by target: the fault logged last
	peers map[string]*peer
}

type peer struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// ErrNotFound says that the set has not been looked up yet.
var ErrNotFound = errors.New("the Dopplers have not been looked up yet")

// Found tells whether the set was looked up at least once.
func (s *Set) Found() bool { return s.found.Load() }

// Run keeps the set current until ctx ends, then awaits every Peer.
func (s *Set) Run(ctx context.Context) error {
	s.last, s.said, s.peers = map[string][]string{}, map[string]string{}, map[string]*peer{}
	tick := time.NewTicker(s.Interval)
	defer tick.Stop()
	for {
		s.reconcile(ctx, s.lookup(ctx))
		s.found.Store(true)
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	var wg sync.WaitGroup
	for _, p := range s.peers {
		p.cancel()
		wg.Go(func() { <-p.done })
	}
	wg.Wait()
	return nil
}

// lookup asks every target. One that cannot be asked keeps what it said last.
func (s *Set) lookup(ctx context.Context) map[string]bool {
	want := map[string]bool{}
	for _, t := range s.Targets {
		bounded, cancel := context.WithTimeout(ctx, max(s.Interval, time.Second))
		addrs, err := t.lookup(bounded, s.Resolver)
		cancel()
		if err == nil {
			s.last[t.spec] = addrs
			delete(s.said, t.spec)
		} else if ctx.Err() == nil && s.said[t.spec] != err.Error() {
			s.said[t.spec] = err.Error()
			s.Log.Warn("Dopplers cannot be looked up; the last known ones stay", "target", t.spec, "error", err)
		}
		for _, a := range s.last[t.spec] {
			want[a] = true
		}
	}
	return want
}

// reconcile starts what is new, stops what is gone and awaits it.
func (s *Set) reconcile(ctx context.Context, want map[string]bool) {
	if ctx.Err() != nil {
		return
	}
	for _, addr := range slices.Sorted(maps.Keys(s.peers)) {
		if !want[addr] {
			p := s.peers[addr]
			p.cancel()
			<-p.done
			delete(s.peers, addr)
			s.PeerLog.Of(addr).Info("Doppler is gone")
			s.Removed(addr)
		}
	}
	for _, addr := range slices.Sorted(maps.Keys(want)) {
		if s.peers[addr] != nil {
			continue
		}
		inner, cancel := context.WithCancel(ctx)
		p := &peer{cancel: cancel, done: make(chan struct{})}
		s.peers[addr] = p
		s.PeerLog.Of(addr).Info("Doppler found")
		s.Added(addr)
		go func() {
			defer close(p.done)
			s.Peer(inner, addr)
		}()
	}
}
