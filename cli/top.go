package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/cli/internal/render"
	"github.com/a1ea6966/loggregator/cli/internal/terminal"
	"github.com/a1ea6966/loggregator/cli/internal/top"
)

// topCommand shows what flows.
type topCommand struct {
	Addr  []string `env:"LGR_ADDR" default:"http://127.0.0.1:8081" sep:"," placeholder:"URL" help:"The Traffic Controller, or the stream listeners of Dopplers; repeat it for several (default ${default})."`
	Token string   `env:"LGR_TOKEN" placeholder:"TOKEN" help:"Access token, as cf oauth-token prints it; better given in the environment."`
	TLS   tlsFlags `embed:"" group:"tls"`

	Interval time.Duration `short:"i" default:"1s" placeholder:"TIME" help:"Time between two readings (default ${default})."`
	Once     bool          `help:"Print one reading and exit."`
	Color    string        `default:"auto" placeholder:"WHEN" help:"auto, always or never (default ${default})."`
}

// Help says how to leave.
func (*topCommand) Help() string {
	return `On a terminal the table is redrawn until q or Ctrl-C is pressed; elsewhere one table is printed under the other.`
}

func (c *topCommand) check() error {
	faults := []error{c.TLS.check(), checkColour(c.Color)}
	for i, addr := range c.Addr {
		base, err := baseURL(addr)
		c.Addr[i] = base
		faults = append(faults, err)
	}
	if c.Interval < 100*time.Millisecond {
		faults = append(faults, fmt.Errorf("--interval: %s is less than 100ms", c.Interval))
	}
	return errors.Join(faults...)
}

func checkColour(when string) error {
	return oneOf("--color", when, string(render.ColourAuto), string(render.ColourAlways), string(render.ColourNever))
}

func (c *topCommand) run(ctx context.Context, s Streams) error {
	config, err := c.TLS.outside()
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	client := &top.Client{HTTP: &http.Client{Transport: transport}, Addrs: c.Addr, Header: authorization(c.Token)}
	onTerminal := terminal.Is(s.Out)
	view := top.View{
		Title:  "lgr top  " + strings.Join(c.Addr, " "),
		Colour: render.ColourMode(c.Color).On(onTerminal),
	}
	switch {
	case c.Once:
		return top.Once(ctx, client, view, s.Out)
	case !onTerminal:
		return top.Watch(ctx, client, view, top.Screen{Out: s.Out}, c.Interval)
	}
	return c.watch(ctx, s, client, view)
}

// watch shows the table on a terminal; Ctrl-C is the usual end.
func (c *topCommand) watch(ctx context.Context, s Streams, client *top.Client, view top.View) error {
	full := &top.FullScreen{
		Size:  func() (int, int) { return terminal.Size(s.Out) },
		Enter: terminal.EnterScreen, Redraw: terminal.Home, LineEnd: terminal.ClearLine,
		Below: terminal.ClearBelow, Leave: terminal.LeaveScreen,
	}
	if in, ok := s.In.(*os.File); ok && terminal.Is(in) {
		keys, stop, err := terminal.Keys(in)
		if err != nil {
			return err
		}
		defer stop()
		full.Keys = keys
	}
	resized := make(chan os.Signal, 1)
	terminal.NotifyResize(resized)
	defer signal.Stop(resized)
	full.Resized = resized
	return top.Watch(ctx, client, view, top.Screen{Out: s.Out, Full: full}, c.Interval)
}
