// Package pipeline runs a set of Dopplers and Traffic Controllers as
// processes, on ports of the system's choice on loopback.
package pipeline

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/integration/process"
)

// Config is what to run.
type Config struct {
	Binaries process.Binaries
	// Dopplers and Controllers are how many of each.
	Dopplers, Controllers int
	// DopplerArgs and ControllerArgs are added to the flags of each.
	DopplerArgs, ControllerArgs []string
	// Access are the flags of the Traffic Controllers' access control; without,
	// everybody may read everything.
	Access []string
	// Certs is a directory made by `lgr certs`; empty means plaintext.
	Certs string
	// Place says where a service runs, by its name; nil is here, on loopback.
	Place func(name string) Place
	// Find, when set, is what the Traffic Controllers are told of where Dopplers
	// are, for instance a DNS name.
	Find string
	// Peers, when set, is a file the Traffic Controllers find Dopplers in; it
	// is written by WritePeers. Otherwise they get flags.
	Peers string
	// Log gets the logs of all, if not nil.
	Log io.Writer
}

// Place is where a service runs.
type Place struct {
	// Listen has the host:port of a listener, by its name; the port may be 0.
	Listen map[string]string
	// Start starts the process there.
	Start func(*exec.Cmd) error
}

// Pipeline is a running set. Its methods are for one goroutine at a time.
type Pipeline struct {
	conf        Config
	Dopplers    []*Service
	Controllers []*Service
}

// Service is one process and the addresses it listens on.
type Service struct {
	*process.Process
	// Name given with --name.
	Name string
	// Addrs by the name of the listener.
	Addrs map[string]string
	// args are the flags it was started with, without those of addresses.
	args []string
	path string
}

// Names of listeners in Service.Addrs.
const (
	GRPC   = "grpc"
	Stream = "stream"
	Admin  = "admin"
	Public = "addr"
)

// listeners are the flags of the listeners of each program.
var listeners = map[string]map[string]string{
	process.Doppler:           {GRPC: "--grpc-addr", Stream: "--stream-addr", Admin: "--admin-addr"},
	process.TrafficController: {Public: "--addr", Admin: "--admin-addr"},
}

// Start starts everything and waits until each Traffic Controller is ready.
// On error nothing is left running.
func Start(ctx context.Context, conf Config) (*Pipeline, error) {
	p := &Pipeline{conf: conf}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.Stop(ctx))
	}
	return p, nil
}

func (p *Pipeline) start(ctx context.Context) error {
	for range p.conf.Dopplers {
		if _, err := p.AddDoppler(ctx); err != nil {
			return err
		}
	}
	if err := p.WritePeers(); err != nil {
		return err
	}
	for range p.conf.Controllers {
		c, err := p.AddController(ctx)
		if err != nil {
			return err
		}
		if p.conf.Dopplers > 0 {
			if err := p.WaitReady(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// AddDoppler starts one more. Traffic Controllers that run already do not know
// it, unless WritePeers tells them.
func (p *Pipeline) AddDoppler(ctx context.Context) (*Service, error) {
	s := &Service{Name: fmt.Sprintf("doppler-%d", len(p.Dopplers)), path: p.conf.Binaries.Path(process.Doppler)}
	s.args = append(s.args, "--name", s.Name)
	if c := p.conf.Certs; c != "" {
		s.args = append(s.args, "--tls-cert", c+"/doppler.crt", "--tls-key", c+"/doppler.key", "--tls-ca", c+"/ca.crt")
	}
	s.args = append(s.args, p.conf.DopplerArgs...)
	if err := p.launch(ctx, s); err != nil {
		return nil, err
	}
	p.Dopplers = append(p.Dopplers, s)
	return s, nil
}

// AddController starts one more, which knows all Dopplers that run, with more
// flags than the others have.
func (p *Pipeline) AddController(ctx context.Context, more ...string) (*Service, error) {
	s := &Service{
		Name: fmt.Sprintf("controller-%d", len(p.Controllers)), path: p.conf.Binaries.Path(process.TrafficController),
		args: slices.Clone(p.conf.Access),
	}
	if len(s.args) == 0 {
		s.args = []string{"--disable-access-control"}
	}
	s.args = append(s.args, "--name", s.Name)
	switch {
	case p.conf.Find != "":
		s.args = append(s.args, "--doppler", p.conf.Find)
	case p.conf.Peers != "":
		s.args = append(s.args, "--doppler", "file:"+p.conf.Peers)
	default:
		for _, d := range p.Dopplers {
			s.args = append(s.args, "--doppler", d.Addrs[Stream])
		}
	}
	if c := p.conf.Certs; c != "" {
		s.args = append(s.args,
			"--doppler-tls-cert", c+"/trafficcontroller.crt", "--doppler-tls-key", c+"/trafficcontroller.key",
			"--doppler-tls-ca", c+"/ca.crt", "--tls-cert", c+"/outside.crt", "--tls-key", c+"/outside.key")
	}
	s.args = append(append(s.args, p.conf.ControllerArgs...), more...)
	if err := p.launch(ctx, s); err != nil {
		return nil, err
	}
	p.Controllers = append(p.Controllers, s)
	return s, nil
}

// WritePeers writes the addresses of all Dopplers that were started into the
// file Config.Peers, in one step. Without such a file it does nothing.
func (p *Pipeline) WritePeers() error {
	if p.conf.Peers == "" {
		return nil
	}
	var text strings.Builder
	for _, d := range p.Dopplers {
		fmt.Fprintln(&text, d.Addrs[Stream])
	}
	next := p.conf.Peers + ".next"
	if err := os.WriteFile(next, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write peers: %w", err)
	}
	if err := os.Rename(next, p.conf.Peers); err != nil {
		return fmt.Errorf("write peers: %w", err)
	}
	return nil
}

// Restart starts a service that has ended again, on the same ports.
func (p *Pipeline) Restart(ctx context.Context, s *Service) error { return p.launch(ctx, s) }

// launch starts the process of a service and learns its addresses.
func (p *Pipeline) launch(ctx context.Context, s *Service) error {
	var place Place
	if p.conf.Place != nil {
		place = p.conf.Place(s.Name)
	}
	args := slices.Clone(s.args)
	for listener, flag := range listeners[baseName(s.path)] {
		args = append(args, flag, cmp.Or(s.Addrs[listener], place.Listen[listener], "127.0.0.1:0"))
	}
	started, err := process.Start(process.Command{Path: s.path, Args: args, Stderr: p.conf.Log, Start: place.Start})
	if err != nil {
		return err
	}
	s.Process = started
	said, err := started.Listening(ctx)
	if err != nil {
		started.Kill()
		return err
	}
	s.Addrs = make(map[string]string)
	for listener := range listeners[baseName(s.path)] {
		if s.Addrs[listener] = said[listener]; said[listener] == "" {
			started.Kill()
			return fmt.Errorf("%s does not say where its listener %q is:\n%s", s.Name, listener, started.Log())
		}
	}
	return nil
}

func baseName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// WaitReady waits until a service answers its readiness probe with 200.
func (p *Pipeline) WaitReady(ctx context.Context, s *Service) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = probe(ctx, "http://"+s.Addrs[Admin]+"/ready"); last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.Done():
			return fmt.Errorf("%s ended before it was ready:\n%s", s.Name, s.Log())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to be ready: %w: %w\n%s", s.Name, context.Cause(ctx), last, s.Log())
		}
	}
}

func probe(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // best effort: it is for people
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// Stop ends everything with SIGTERM, the writers' end first. The error tells
// of services that did not end well.
func (p *Pipeline) Stop(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Concat(p.Controllers, p.Dopplers) {
		select {
		case <-s.Done(): // before, by somebody else
			continue
		default:
		}
		code, err := s.Stop(ctx)
		if err == nil && code != 0 {
			err = fmt.Errorf("%s ended with code %d:\n%s", s.Name, code, s.Log())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// URL of a Traffic Controller for readers.
func (p *Pipeline) URL(controller int) string {
	scheme := "ws://"
	if p.conf.Certs != "" {
		scheme = "wss://"
	}
	return scheme + p.Controllers[controller].Addrs[Public]
}

// IngressTLS is what a producer needs; nil for plaintext.
func (p *Pipeline) IngressTLS() (*tls.Config, error) { return IngressTLS(p.conf.Certs) }

// ReaderTLS is what a reader needs; nil for plaintext.
func (p *Pipeline) ReaderTLS() (*tls.Config, error) { return ReaderTLS(p.conf.Certs) }
