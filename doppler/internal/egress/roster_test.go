package egress

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// named is one call with a deterministic name.
type named struct {
	*receiver
	name string
	got  chan *loggregatorv2.Envelope
	done chan struct{}
}

// everything selects all that protocol/01 can.
var everything = []*loggregatorv2.Selector{anyLog, counters(""), gauges(), anyTimer, anyEvent}

func (d *doppler) receiveAs(client loggregatorv2.EgressClient, name string) *named {
	d.t.Helper()
	q := &loggregatorv2.EgressBatchRequest{ShardId: "shard", DeterministicName: name, Selectors: everything}
	n := &named{receiver: d.receive(client, q), name: name, got: make(chan *loggregatorv2.Envelope, 100_000), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		for n.next() == nil {
			for _, e := range n.receiver.got {
				n.got <- e
			}
			n.receiver.got = nil
		}
	}()
	return n
}

func (n *named) leave(d *doppler) {
	open := d.server.Stats().Subscriptions
	n.cancel()
	<-n.done
	eventually(d.t, func() bool { return d.server.Stats().Subscriptions < open })
}

func counterOf(name string, id int) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		SourceId: "app", InstanceId: fmt.Sprint(id),
		Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name}},
	}
}

// burst is what a test sends between two changes of members: of many names,
// often, and logs.
func burst(from int) (list []*loggregatorv2.Envelope) {
	for i := range 200 {
		if i%4 == 0 {
			e := logOf("app", "line")
			e.InstanceId = fmt.Sprint(from + i)
			list = append(list, e)
			continue
		}
		list = append(list, counterOf(fmt.Sprintf("metric-%d", i%20), from+i))
	}
	return list
}

// TestDeterministicNames: whoever comes and goes, everything goes to exactly one
// of the names that are there, and a metric always to the same until they
// change.
func TestDeterministicNames(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	d := start(t, 64<<20, nil)
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	members := []*named{d.receiveAs(client, "a")}
	for round := range 40 {
		if name := string(rune('a' + rng.IntN(5))); rng.IntN(2) == 0 || len(members) == 1 {
			members = append(members, d.receiveAs(client, name))
		} else {
			i := rng.IntN(len(members))
			members[i].leave(d)
			members = slices.Delete(members, i, i+1)
		}
		owners := map[string]string{}
		shares := map[string]int{}
		sent := burst(round * 1000)
		d.add(sent...)
		seen := map[string]bool{}
		for len(seen) < len(sent) {
			n, e := fromAny(t, members)
			if seen[e.GetInstanceId()] {
				t.Fatalf("round %d: %v came twice", round, e)
			}
			seen[e.GetInstanceId()] = true
			shares[n]++
			metric := e.GetCounter().GetName()
			if owner, ok := owners[metric]; ok && metric != "" && owner != n {
				t.Fatalf("round %d: %s went to %s and to %s", round, metric, owner, n)
			}
			owners[metric] = n
		}
		if len(shares) != len(d.owners()) {
			t.Errorf("round %d: %v of %v got something", round, shares, d.owners())
		}
	}
	for _, m := range members {
		m.leave(d)
	}
	if members[0].missed != 0 {
		t.Errorf("%d are told as missed", members[0].missed)
	}
}

// owners are the names that are there now.
func (d *doppler) owners() (names []string) {
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	for _, r := range d.server.rosters {
		names = append(names, r.owners.Names()...)
	}
	return names
}

// fromAny waits for the next envelope of any member.
func fromAny(t *testing.T, members []*named) (name string, e *loggregatorv2.Envelope) {
	t.Helper()
	eventually(t, func() bool {
		for _, m := range members {
			select {
			case e = <-m.got:
				name = m.name
				return true
			default:
			}
		}
		return false
	})
	return name, e
}

// TestNameThatComesBack gets what came while it was away: nobody else was there.
func TestNameThatComesBack(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	a := d.receiveAs(client, "a")
	a.leave(d)
	d.add(burst(0)...)
	a = d.receiveAs(client, "a")
	for range burst(0) {
		fromAny(t, []*named{a})
	}
	a.leave(d)
}

// TestNameThatStaysAway: what it has not delivered is told to another when it
// has lingered long enough.
func TestNameThatStaysAway(t *testing.T) {
	// The time that passes at once must not be that of a write under way.
	d := start(t, 16<<20, func(c *Config) { c.StuckTimeout = time.Hour })
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	a := d.receiveAs(client, "a")
	a.leave(d)
	sent := len(burst(0))
	d.add(burst(0)...) // all of it belongs to a
	b := d.receiveAs(client, "b")
	d.add(burst(1000)...)
	for range sent {
		fromAny(t, []*named{b})
	}
	d.server.expire(time.Now().Add(2 * time.Minute))
	d.add(counterOf("last", 0))
	fromAny(t, []*named{b})
	b.leave(d)
	if b.missed != uint64(sent) {
		t.Errorf("told that %d are missed, want %d", b.missed, sent)
	}
	if dropped := d.server.Stats().Dropped; dropped != uint64(sent) {
		t.Errorf("%d count as dropped, want %d", dropped, sent)
	}
}

// TestSlowName: one that is too slow is told exactly what it missed of its own
// share, and delays nobody.
func TestSlowName(t *testing.T) {
	d := start(t, 4<<20, func(c *Config) { c.WindowBytes, c.Linger = 64<<10, time.Millisecond })
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	slow := d.receive(client, &loggregatorv2.EgressBatchRequest{ShardId: "shard", DeterministicName: "slow", Selectors: everything})
	quick := d.receiveAs(client, "quick")
	const rounds = 100
	for range rounds {
		list := burst(0)
		for _, e := range list {
			e.Tags = map[string]string{"filler": strings.Repeat("x", 1000)}
		}
		d.add(list...)
	}
	ended := d.drain(20 * time.Second)
	_ = slow.toEnd()
	<-quick.done
	endsWithin(t, ended, 20*time.Second)
	total := uint64(rounds * len(burst(0)))
	got := uint64(len(slow.got) + len(quick.got))
	if got+slow.missed+quick.missed != total || slow.missed == 0 {
		t.Errorf("got %d, missed %d and %d of %d", got, slow.missed, quick.missed, total)
	}
}

// TestNamesBesideNone: those without a name get what there is while no name is
// connected, and nothing else.
func TestNamesBesideNone(t *testing.T) {
	d := start(t, 64<<20, nil)
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	plain := d.receiveAs(client, "")
	next := 0
	comesFrom := func(want *named) {
		t.Helper()
		list := burst(next)
		next += 1000
		d.add(list...)
		seen := map[string]bool{}
		for len(seen) < len(list) {
			_, e := fromAny(t, []*named{want})
			if seen[e.GetInstanceId()] {
				t.Fatalf("%v came twice", e)
			}
			seen[e.GetInstanceId()] = true
		}
	}
	comesFrom(plain)
	for range 5 {
		a := d.receiveAs(client, "a")
		comesFrom(a)
		other := d.receiveAs(client, "")
		comesFrom(a)
		other.leave(d)
		a.leave(d)
		comesFrom(plain)
	}
	if len(plain.got) != 0 {
		t.Errorf("%d too many", len(plain.got))
	}
	plain.leave(d)
	late := d.receiveAs(client, "b")
	comesFrom(late)
	late.leave(d)
	if plain.missed+late.missed != 0 {
		t.Errorf("told that %d and %d are missed", plain.missed, late.missed)
	}
}

// TestStalledBesideNames: one without a name that was behind when a name came is
// told exactly what it missed until then.
func TestStalledBesideNames(t *testing.T) {
	d := start(t, 4<<20, func(c *Config) { c.WindowBytes, c.Linger = 64<<10, time.Millisecond })
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	q := &loggregatorv2.EgressBatchRequest{ShardId: "shard", Selectors: everything}
	plain := d.receive(client, q)
	big := func() []*loggregatorv2.Envelope {
		list := burst(0)
		for _, e := range list {
			e.Tags = map[string]string{"filler": strings.Repeat("x", 1000)}
		}
		return list
	}
	const rounds = 50
	for range rounds {
		d.add(big()...)
	}
	a := d.receiveAs(client, "a")
	for range rounds {
		d.add(big()...)
	}
	ended := d.drain(20 * time.Second)
	_ = plain.toEnd()
	<-a.done
	endsWithin(t, ended, 20*time.Second)
	half := rounds * len(big())
	if n := len(plain.got) + int(plain.missed); n != half || plain.missed == 0 {
		t.Errorf("without a name: got %d, missed %d, want %d in all", len(plain.got), plain.missed, half)
	}
	if n := len(a.got) + int(a.missed); n != half {
		t.Errorf("with one: got %d, missed %d, want %d in all", len(a.got), a.missed, half)
	}
}
