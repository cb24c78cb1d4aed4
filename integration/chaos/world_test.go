//go:build linux

package chaos

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/netns"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// Size of a world, and what its producers send.
const (
	dopplers    = 4
	controllers = 2
	rate        = 500 // envelopes a second to each Doppler
	tailed      = 3   // the source that is tailed
	shared      = "shared"
	alone       = "alone"
	old         = "old"
)

var plan = load.Plan{Shape: load.Reference, Sources: 8, Batch: 10}

// Ports of services.
const (
	streamPort = 8083
	publicPort = 8081
)

// world is a pipeline each of whose processes is a host of a network, with
// readers of every kind in this process and in one more.
type world struct {
	*pipeline.Pipeline
	network *netns.Network
	names   *names
	nozzle  *process.Process
	senders []*load.Sender
	readers []*reader
	ledgers []*ledger
}

// Addresses. Each reader of this process goes to a Traffic Controller by an
// address of its own, its path, so that a fault can be one reader's alone.
func dopplerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 66, 0, byte(10 + i)}) }
func pathAddr(controller, p int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 66, byte(p), byte(20 + controller)})
}

var (
	hereAddr   = netip.MustParseAddr("10.66.0.1")
	otherAddr  = netip.MustParseAddr("10.66.1.10") // of Doppler 0
	nozzleAddr = netip.MustParseAddr("10.66.0.40")
)

const paths = 8

func newWorld(t *testing.T, conf pipeline.Config) *world {
	t.Helper()
	netns.Need(t)
	network, err := netns.New(hereAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{network: network, senders: blackbox.NewSenders(dopplers)}
	places := w.places(t)
	w.names = serveNames(t, hereAddr, dopplerAddrs()...)
	conf.Find = fmt.Sprintf("dns:///%s:%d", dopplerName, streamPort)
	conf.Dopplers, conf.Controllers = dopplers, controllers
	conf.Place = func(name string) pipeline.Place { return places[name] }
	w.Pipeline = blackbox.Start(t, conf)
	return w
}

// host makes a host of the network.
func (w *world) host(t *testing.T, addrs ...netip.Addr) *netns.Host {
	t.Helper()
	h, err := w.network.Host(addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// places makes a host for every service.
func (w *world) places(t *testing.T) map[string]pipeline.Place {
	t.Helper()
	places := make(map[string]pipeline.Place)
	for i := range dopplers {
		addrs := []netip.Addr{dopplerAddr(i)}
		if i == 0 {
			addrs = append(addrs, otherAddr)
		}
		ip := addrs[0].String()
		places[fmt.Sprintf("doppler-%d", i)] = pipeline.Place{
			Start: w.host(t, addrs...).Start,
			Listen: map[string]string{
				pipeline.GRPC: ip + ":0", pipeline.Admin: ip + ":0", pipeline.Stream: fmt.Sprintf("0.0.0.0:%d", streamPort),
			},
		}
	}
	for c := range controllers {
		var addrs []netip.Addr
		for p := range paths {
			addrs = append(addrs, pathAddr(c, p))
		}
		places[fmt.Sprintf("controller-%d", c)] = pipeline.Place{
			Start: w.host(t, addrs...).Start,
			Listen: map[string]string{
				pipeline.Admin: addrs[0].String() + ":0", pipeline.Public: fmt.Sprintf("0.0.0.0:%d", publicPort),
			},
		}
	}
	return places
}

func url(controller, path int) string {
	return fmt.Sprintf("ws://%v:%d", pathAddr(controller, path), publicPort)
}

// Paths of readers.
const (
	pathShared = iota + 1
	pathAlone
	pathOld
	pathTail
	pathOldTail
	pathQuiet
)

// readerKind tells readers apart of which there is one each.
type readerKind int

const (
	ordinary readerKind = iota
	separate            // the program, in a process of its own
	badLine             // the one whose line can be made bad
	quiet               // which selects what nobody sends
)

// newLedgers returns one of each kind.
func newLedgers() []*ledger {
	return []*ledger{
		{name: "Firehose, acks, shared by three"},
		{name: "Firehose, acks, alone"},
		{name: "Firehose, old framing", old: true},
		{name: "tail, batches", tail: true},
		{name: "tail, old framing", tail: true, old: true},
	}
}

// open opens readers of every kind and waits until each is placed everywhere.
func (w *world) open(ctx context.Context, t *testing.T) {
	t.Helper()
	w.ledgers = newLedgers()
	together, single, oldHose, tail, oldTail := w.ledgers[0], w.ledgers[1], w.ledgers[2], w.ledgers[3], w.ledgers[4]
	add := func(l *ledger, kind readerKind, controller int) *reader {
		r := &reader{ledger: l, kind: kind, controller: controller}
		w.readers = append(w.readers, r)
		return r
	}
	source := plan.SourceID(tailed)
	for c := range controllers {
		runSDK(t, add(together, ordinary, c), nozzle.Open,
			nozzle.Config{Addr: url(c, pathShared), Subscription: shared, Types: []string{"log"}})
	}
	w.startNozzle(t, add(together, separate, 1))
	runSDK(t, add(single, badLine, 0), nozzle.Open, nozzle.Config{Addr: url(0, pathAlone), Subscription: alone})
	runOld(t, add(oldHose, ordinary, 0), url(0, pathOld)+"/firehose/"+old)
	runSDK(t, add(tail, badLine, 0), nozzle.Tail, nozzle.Config{Addr: url(0, pathTail), Source: source})
	runOld(t, add(oldTail, ordinary, 0), url(0, pathOldTail)+"/apps/"+source+"/stream")
	runSDK(t, add(&ledger{name: "quiet Firehose"}, quiet, 0), nozzle.Open,
		nozzle.Config{Addr: url(0, pathQuiet), Subscription: "quiet", Types: []string{"event"}})
	for _, d := range w.Dopplers {
		blackbox.Poll(ctx, t, "readers at "+d.Name, func() bool {
			return blackbox.Members(ctx, t, d, shared) == 3 && blackbox.Members(ctx, t, d, alone) == 1 &&
				blackbox.Members(ctx, t, d, old) == 1 && blackbox.Members(ctx, t, d, "quiet") == 1 && blackbox.Links(ctx, t, d) == controllers
		})
	}
	blackbox.Poll(ctx, t, "tails", func() bool {
		return blackbox.Metric(ctx, t, w.Controllers[0], "trafficcontroller_app_streams") == 2
	})
}

// startNozzle starts the program, which writes a file, on a host of its own.
func (w *world) startNozzle(t *testing.T, r *reader) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "envelopes")
	w.nozzle = blackbox.Launch(t, process.Nozzle, process.Command{
		Args: []string{
			"--addr", url(1, 0), "--subscription", shared, "--type", "log",
			"--sink", "file", "--file", path, "--fsync", "never", "--admin-addr", nozzleAddr.String() + ":0",
		},
		Start: w.host(t, nozzleAddr).Start,
	})
	runFile(t, r, path)
}

// load sends to every Doppler until stop is called, which waits until
// everything is confirmed.
func (w *world) load(ctx context.Context, t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	sending.Go(func() {
		blackbox.Send(ctx, t, w.senders, w.Dopplers, blackbox.Sending{Plan: plan, Rate: rate})
	})
	stop = sync.OnceFunc(func() {
		cancel()
		sending.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// acceptedNow is how much the Dopplers have taken, and of that the tailed source
// has. All that was sent must be confirmed.
func (w *world) acceptedNow(ctx context.Context, t *testing.T) (all, tail uint64) {
	t.Helper()
	sent := uint64(0)
	for _, s := range w.senders {
		tail += s.Sent(tailed)
		for source := range plan.Sources {
			sent += s.Sent(source)
		}
	}
	for _, d := range w.Dopplers {
		all += uint64(blackbox.Metric(ctx, t, d, "doppler_ingress_envelopes_total"))
	}
	if all != sent {
		t.Errorf("the Dopplers say they accepted %d, confirmed were %d", all, sent)
	}
	return all, tail
}

// last sends a little more to every Doppler, for readers to know that nothing
// came before it that they do not have.
func (w *world) last(ctx context.Context, t *testing.T) {
	t.Helper()
	blackbox.Send(ctx, t, w.senders, w.Dopplers, blackbox.Sending{Plan: plan, Count: uint64(plan.Sources * plan.Batch)})
}

// hasLast tells whether readers have the newest envelope of every Doppler.
func (w *world) hasLast(l *ledger) bool {
	for n, s := range w.senders {
		if !l.has(load.ID{Sender: n, Source: tailed, N: s.Sent(tailed) - 1}) {
			return false
		}
	}
	return true
}

// settled waits until no Doppler has anything left for a Firehose or on its
// way to one, and holds the account that it shows to what it accepted.
func (w *world) settled(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, d := range w.Dopplers {
		var open blackbox.Subscription
		settled := func() bool {
			for _, s := range blackbox.Subscriptions(ctx, t, d) {
				if s.Kind == "firehose" && s.Accepted != s.Acked+s.Dropped {
					open = s
					return false
				}
			}
			return true
		}
		if !pollFor(time.Minute, settled) {
			t.Errorf("%s has something under way that never arrives: %+v", d.Name, open)
		}
	}
}

// pollFor waits without ending the test, and tells whether it came to be.
func pollFor(limit time.Duration, done func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !done() {
		select {
		case <-tick.C:
		case <-end:
			return done()
		}
	}
	return true
}
