//go:build linux

package chaos

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/netns"
	"github.com/a1ea6966/loggregator/integration/process"
)

// fault is one kind of trouble.
type fault struct {
	name string
	// hits tells whether what a reader gets of a Doppler is held up.
	hits func(r *reader, doppler int) bool
	// begin lets it begin and returns what ends it.
	begin func(t *testing.T, w *world) (end func())
	// lasts is how long, at least.
	lasts time.Duration
	// noticed, if set, has to come true while it lasts, within the promise.
	noticed func(ctx context.Context, t *testing.T, w *world) bool
	// undone, if set, has to come true when it is over.
	undone func(ctx context.Context, t *testing.T, w *world) bool
}

// detection is how soon a dead path has to be noticed: promised are two
// heartbeats, 10 s; a third more is what a watch needs to see that it is not
// heard, and the rest is for a busy machine.
const detection = 20 * time.Second

// stopFor is how long processes stand still: less than two heartbeats.
const stopFor = 8 * time.Second

// stop lets a process stand still.
func stop(of func(w *world) *process.Process) func(*testing.T, *world) func() {
	return func(t *testing.T, w *world) func() {
		t.Helper()
		p := of(w)
		signal := func(s syscall.Signal) {
			if err := p.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		signal(syscall.SIGSTOP)
		return func() { signal(syscall.SIGCONT) }
	}
}

// impose lets packets get lost or come late.
func impose(faults ...netns.Fault) func(*testing.T, *world) func() {
	return func(t *testing.T, w *world) func() {
		t.Helper()
		var imposed []*netns.Imposed
		for _, f := range faults {
			imposed = append(imposed, w.network.Impose(f))
		}
		return func() {
			for _, i := range imposed {
				if i.Lost()+i.Delayed() == 0 {
					t.Error("no packet has met the fault")
				}
				i.Lift()
			}
		}
	}
}

func addrs(all ...netip.Addr) []netip.Addr { return all }

// missed tells whether Traffic Controllers know that a Doppler is away.
func missed(which ...int) func(context.Context, *testing.T, *world) bool {
	return func(ctx context.Context, t *testing.T, w *world) bool {
		t.Helper()
		for _, c := range which {
			if blackbox.Metric(ctx, t, w.Controllers[c], "trafficcontroller_dopplers") != dopplers-1 {
				return false
			}
		}
		return true
	}
}

// cutOff tells whether every reader at controller 0 that uses the SDK has given
// its connection up. What is old waits as long as it likes.
func cutOff(_ context.Context, _ *testing.T, w *world) bool {
	for _, r := range w.readers {
		if r.controller == 0 && !r.old && r.cuts.Load() == 0 {
			return false
		}
	}
	return true
}

var (
	controllerAddrs = addrs(pathAddr(0, 0), pathAddr(1, 0))
	clientPaths     = addrs(pathAddr(0, pathShared), pathAddr(0, pathAlone), pathAddr(0, pathOld), pathAddr(0, pathTail), pathAddr(0, pathOldTail), pathAddr(0, pathQuiet))
	badPaths        = addrs(pathAddr(0, pathAlone), pathAddr(0, pathTail))
)

func ofDoppler0(_ *reader, doppler int) bool { return doppler == 0 }
func ofController0(r *reader, _ int) bool    { return r.controller == 0 }
func ofBoth(r *reader, doppler int) bool     { return doppler == 0 && r.controller == 0 }
func ofSeparate(r *reader, _ int) bool       { return r.kind == separate }
func ofNobody(*reader, int) bool             { return false }
func ofBadLine(r *reader, _ int) bool        { return r.kind == badLine }

var faults = []fault{
	{
		name: "a Doppler stands still for 8 s", hits: ofDoppler0, lasts: stopFor,
		begin: stop(func(w *world) *process.Process { return w.Dopplers[0].Process }),
	}, {
		name: "a Traffic Controller stands still for 8 s", hits: ofController0, lasts: stopFor,
		begin: stop(func(w *world) *process.Process { return w.Controllers[0].Process }),
	}, {
		name: "a nozzle stands still for 8 s", hits: ofSeparate, lasts: stopFor,
		begin: stop(func(w *world) *process.Process { return w.nozzle }),
	}, {
		name: "no packet passes between a Doppler and the Traffic Controllers", hits: ofDoppler0,
		begin: impose(netns.Fault{From: addrs(dopplerAddr(0)), To: controllerAddrs, Loss: 1},
			netns.Fault{From: controllerAddrs, To: addrs(dopplerAddr(0)), Loss: 1}),
		noticed: missed(0, 1),
	}, {
		name: "no packet passes from a Doppler to a Traffic Controller", hits: ofBoth,
		begin:   impose(netns.Fault{From: addrs(dopplerAddr(0)), To: addrs(pathAddr(0, 0)), Loss: 1}),
		noticed: missed(0),
	}, {
		name: "no packet passes from a Traffic Controller to a Doppler", hits: ofBoth,
		begin:   impose(netns.Fault{From: addrs(pathAddr(0, 0)), To: addrs(dopplerAddr(0)), Loss: 1}),
		noticed: missed(0),
	}, {
		name: "no packet passes from a Traffic Controller to its clients", hits: ofController0,
		begin: impose(netns.Fault{From: clientPaths, Loss: 1}), noticed: cutOff,
	}, {
		name: "no packet passes from clients to their Traffic Controller", hits: ofController0,
		begin: impose(netns.Fault{To: clientPaths, Loss: 1}), noticed: cutOff,
	}, {
		name: "DNS leaves out a Doppler for 8 s", hits: ofDoppler0, lasts: stopFor,
		begin: found(withoutDoppler0), noticed: missed(0, 1),
	}, {
		name: "DNS tells another address of a Doppler", hits: ofNobody,
		begin: found(movedDoppler0), noticed: followed, undone: followed,
	}, {
		name: "a line with 100 ms and 1 % loss each way", hits: ofBadLine, lasts: stopFor,
		begin: impose(netns.Fault{From: badPaths, Loss: 0.01, Delay: 100 * time.Millisecond},
			netns.Fault{To: badPaths, Loss: 0.01, Delay: 100 * time.Millisecond}),
	},
}
