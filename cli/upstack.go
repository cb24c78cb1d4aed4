package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/a1ea6966/loggregator/cli/internal/demo"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
	"github.com/a1ea6966/loggregator/cli/internal/render"
	"github.com/a1ea6966/loggregator/cli/internal/terminal"
	"github.com/a1ea6966/loggregator/doppler"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
	"github.com/a1ea6966/loggregator/trafficcontroller"
)

// stack is a whole pipeline.
type stack struct {
	command *upCommand
	streams Streams
	log     *slog.Logger
	level   slog.LevelVar // of log

	certs      string // directory; empty for plaintext
	temporary  bool   // certs is ours
	dopplers   []*doppler.Doppler
	controller *trafficcontroller.TrafficController
	town       *demo.Town    // nil without demo apps
	ready      chan struct{} // closed when all is connected and people know
}

// prepare makes everything and binds its ports.
func (u *stack) prepare(ctx context.Context) error {
	c := u.command
	if err := u.makeCerts(); err != nil {
		return err
	}
	ports := planPorts(c.Dopplers, c.PortOffset, c.RandomPorts)
	if !c.RandomPorts {
		if err := ports.check(ctx); err != nil {
			return err
		}
	}
	var streams []string
	for i, p := range ports.dopplers {
		d, err := doppler.New(u.dopplerConfig(i, p), u.log)
		if err != nil {
			return u.failed(fmt.Errorf("make Doppler %d: %w", i+1, err))
		}
		u.dopplers = append(u.dopplers, d)
		streams = append(streams, d.StreamAddr())
	}
	t, err := trafficcontroller.New(u.controllerConfig(ports, streams), u.log)
	if err != nil {
		return u.failed(fmt.Errorf("make the Traffic Controller: %w", err))
	}
	u.controller = t
	if c.Demo {
		u.town = demo.NewTown(float64(c.DemoRate), uint64(time.Now().UnixNano()), time.Now())
	}
	return nil
}

// giveUp closes what was made and is not going to run.
func (u *stack) giveUp() {
	for _, d := range u.dopplers {
		d.Close()
	}
	if u.controller != nil {
		u.controller.Close()
	}
}

func (u *stack) failed(err error) error {
	u.giveUp()
	return err
}

func (u *stack) dopplerConfig(i int, p dopplerPorts) doppler.Config {
	c := *doppler.DefaultConfig()
	c.Name = fmt.Sprintf("doppler-%d", i+1)
	c.GRPCAddr, c.StreamAddr, c.AdminAddr = p.grpc, p.stream, p.admin
	c.RingBytes, c.DrainGrace = int64(u.command.RingBytes), upDrainGrace
	c.SourceLimit = u.command.SourceLimit
	if u.certs != "" {
		c.TLS = mtls.SetFiles(u.certs, mtls.NameDoppler)
	}
	return c
}

func (u *stack) controllerConfig(p upPorts, dopplers []string) trafficcontroller.Config {
	c := *trafficcontroller.DefaultConfig()
	c.Name = "trafficcontroller-1"
	c.Addr, c.AdminAddr, c.Dopplers = p.controller, p.controllerAdmin, dopplers
	c.DisableAccessControl, c.DrainGrace = true, upDrainGrace/2
	if u.certs != "" {
		outside := mtls.SetFiles(u.certs, mtls.NameOutside)
		c.TLSCert, c.TLSKey = outside.Cert, outside.Key
		c.DopplerTLS = mtls.SetFiles(u.certs, mtls.NameTrafficController)
	}
	return c
}

// makeCerts uses the certificates of --cert-dir, or makes some.
func (u *stack) makeCerts() error {
	c := u.command
	if !c.TLS {
		return nil
	}
	u.certs = c.CertDir
	if u.certs == "" {
		dir, err := os.MkdirTemp("", "lgr-certs-")
		if err != nil {
			return fmt.Errorf("make a directory for certificates: %w", err)
		}
		u.certs, u.temporary = dir, true
	}
	if _, err := os.Stat(mtls.SetFiles(u.certs, mtls.NameDoppler).Cert); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for certificates: %w", err)
	}
	if _, err := mtls.GenerateSet(u.certs, false); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	return nil
}

func (u *stack) removeCerts() {
	if u.temporary {
		if err := os.RemoveAll(u.certs); err != nil {
			notice(u.streams, fmt.Sprintf("the certificates in %s could not be removed: %v", u.certs, err))
		}
	}
}

// run runs everything until ctx ends; what writes is stopped first.
func (u *stack) run(ctx context.Context) error {
	// What services say of each other when they stop is as it should be.
	defer context.AfterFunc(ctx, func() { u.level.Set(slog.LevelError) })()
	g := &daemon.Group{}
	if u.command.Tail {
		g.Add("tail", u.tail)
	}
	g.Add("Traffic Controller", u.controller.Run)
	for i, d := range u.dopplers {
		g.Add(fmt.Sprintf("Doppler %d", i+1), d.Run)
	}
	g.Add("start", u.announce)
	if u.town != nil {
		g.Add("demo apps", u.demo)
	}
	return g.Run(ctx)
}

// announce tells people when everything is connected, and waits for the end.
func (u *stack) announce(ctx context.Context) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	slow := time.NewTimer(5 * time.Second)
	defer slow.Stop()
	for !u.connected(ctx) {
		select {
		case <-ctx.Done():
			return nil
		case <-slow.C:
			notice(u.streams, "still waiting for the Traffic Controller to reach a Doppler; --log-level info says more")
		case <-ticker.C:
		}
	}
	if err := u.banner(); err != nil {
		return err
	}
	close(u.ready)
	<-ctx.Done()
	return nil
}

// connected asks the Traffic Controller whether it is ready.
func (u *stack) connected(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+u.controller.AdminAddr()+"/ready", nil)
	if err != nil {
		return false
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// isReady waits until everything is connected, or for the end.
func (u *stack) isReady(ctx context.Context) bool {
	select {
	case <-u.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// demo lets the apps log until ctx ends.
func (u *stack) demo(ctx context.Context) error {
	if !u.isReady(ctx) {
		return nil
	}
	config := emit.Config{Notice: func(text string) { notice(u.streams, text) }}
	if u.certs != "" {
		trust, err := mtls.Client(mtls.SetFiles(u.certs, mtls.NameMetron), mtls.NameDoppler)
		if err != nil {
			return err
		}
		config.Credentials = credentials.NewTLS(trust)
	}
	var addrs []string
	for _, d := range u.dopplers {
		addrs = append(addrs, d.GRPCAddr())
	}
	fleet, err := emit.DialAll(context.WithoutCancel(ctx), addrs, config)
	if err != nil {
		return err
	}
	return errors.Join(u.town.Run(ctx, fleet.Send), fleet.Close())
}

// tail shows the apps' logs until ctx ends. The connection is not worth a
// word here.
func (u *stack) tail(ctx context.Context) error {
	if !u.isReady(ctx) {
		return nil
	}
	c := &logsCommand{Source: u.town.Sources(), Type: []string{"log"}, Reader: readerFlags{Addr: u.url()}, quiet: true}
	c.Show.Color = string(render.ColourAuto)
	if u.certs != "" {
		c.Reader.TLS.CA = mtls.SetFiles(u.certs, mtls.NameCA).CA
	}
	if err := c.run(ctx, u.streams); !errors.Is(err, errInterrupted) {
		return err
	}
	return nil
}

func (u *stack) url() string {
	if u.certs != "" {
		return "https://" + u.controller.Addr()
	}
	return "http://" + u.controller.Addr()
}

// banner says where everything is and what to try.
func (u *stack) banner() error {
	bold := func(s string) string {
		return render.Bold(s, render.ColourAuto.On(terminal.Is(u.streams.Out)))
	}
	var b strings.Builder
	scheme := "plaintext"
	if u.certs != "" {
		scheme = "mutual TLS, certificates in " + u.certs
	}
	fmt.Fprintf(&b, "The pipeline runs on this machine (%s), WITHOUT ACCESS CONTROL: for development only.\n\n", scheme)
	fmt.Fprintf(&b, "  Traffic Controller  %s   metrics http://%s/metrics\n", bold(u.url()), u.controller.AdminAddr())
	for i, d := range u.dopplers {
		fmt.Fprintf(&b, "  Doppler %-2d          gRPC %s, stream %s   metrics http://%s/metrics\n",
			i+1, bold(d.GRPCAddr()), d.StreamAddr(), d.AdminAddr())
	}
	source := "my-app"
	if u.town != nil {
		fmt.Fprintf(&b, "  Demo apps           %s\n", bold(strings.Join(u.town.Sources(), ", ")))
		source = u.town.Sources()[0]
	}
	b.WriteString("\nTry in another terminal:\n\n")
	for _, line := range u.exports() {
		b.WriteString("  " + line + "\n")
	}
	fmt.Fprintf(&b, "  lgr logs %s\n  lgr firehose --stats\n  lgr top\n  some-program | lgr emit -s my-app\n\nCtrl-C stops everything.\n\n", source)
	if _, err := fmt.Fprint(u.streams.Out, b.String()); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	return nil
}

// exports are the settings without which the commands would look elsewhere.
func (u *stack) exports() []string {
	var out []string
	plan := planPorts(1, 0, false)
	if u.url() != "http://"+plan.controller {
		out = append(out, "export LGR_ADDR="+u.url())
	}
	var addrs []string
	for _, d := range u.dopplers {
		addrs = append(addrs, d.GRPCAddr())
	}
	if all := strings.Join(addrs, ","); all != plan.dopplers[0].grpc {
		out = append(out, "export LGR_DOPPLER_ADDR="+all)
	}
	if u.certs != "" {
		f := mtls.SetFiles(u.certs, mtls.NameMetron)
		out = append(out, fmt.Sprintf("export LGR_TLS_CA=%s LGR_TLS_CERT=%s LGR_TLS_KEY=%s", f.CA, f.Cert, f.Key))
	}
	return out
}
