// Package sizing calculates what a platform of a given size takes, from what
// single envelopes, connections and tails were measured to take. Its test keeps
// docs/scaling.md to it.
package sizing

// Costs are what was measured; docs/scaling.md says how. Times are
// nanoseconds of CPU per envelope, memory is KiB.
type Costs struct {
	Ingest           float64 // Doppler: taken in, with nobody who reads
	FirstFirehose    float64 // Doppler: handed to the first subscription
	NextFirehose     float64 // Doppler: to each more
	LinkWalk         float64 // Doppler: looked at for a tail link, and not watched
	LinkDeliver      float64 // Doppler: handed to a tail link
	FirehosePass     float64 // Traffic Controller: passed on to a nozzle
	TailLine         float64 // Traffic Controller: written to one tail, alone
	DopplerBase      float64 // memory of a Doppler, without ring and recent store
	DopplerFirehose  float64 // of each Firehose connection
	DopplerWatch     float64 // of each source watched by one Traffic Controller
	ControllerBase   float64
	ControllerMember float64 // of each Firehose client, at each Doppler
	ControllerTail   float64 // of each tail
	TailPerDoppler   float64 // of each tail, at each Doppler
}

// Measured are the costs of docs/scaling.md.
var Measured = Costs{
	Ingest: 2062, FirstFirehose: 880, NextFirehose: 260, LinkWalk: 7, LinkDeliver: 922,
	FirehosePass: 841, TailLine: 12_700,
	DopplerBase: 20 << 10, DopplerFirehose: 36, DopplerWatch: 1.4,
	ControllerBase: 20 << 10, ControllerMember: 69, ControllerTail: 11.5, TailPerDoppler: 0.47,
}

// Platform is what there is.
type Platform struct {
	Dopplers, Controllers int
	Rate                  float64 // envelopes per second, at each Doppler
	EnvelopeBytes         float64
	Subscriptions         int     // of the Firehose, each of everything
	Nozzles               int     // in each subscription
	Tails                 int     // of sources of their own, in all
	TailRate              float64 // envelopes per second, of each tailed source
	RingBytes             float64 // of each Doppler, recent store included
	WindowBytes           float64 // from each Doppler to each Firehose client
}

// Doppler is what one Doppler takes.
type Doppler struct {
	Cores       float64
	MemoryBytes float64
	Connections int     // of readers
	In, Out     float64 // bytes per second
	HeldSeconds float64 // how far the ring reaches back
}

// Controller is what one Traffic Controller takes, with a fair part of all
// clients.
type Controller struct {
	Cores       float64
	MemoryBytes float64
	StuckBytes  float64 // more, for each Firehose client that stops taking
	Connections int     // to Dopplers and of clients
	In, Out     float64 // bytes per second
}

// Calculate gives the part of each node. Fractions of clients are rounded up.
func Calculate(c Costs, p Platform) (Doppler, Controller) {
	tailed := float64(p.Tails) * p.TailRate / float64(p.Dopplers) // per second and Doppler
	return c.doppler(p, tailed), c.controller(p, tailed)
}

func (c Costs) doppler(p Platform, tailed float64) Doppler {
	perEnvelope := c.Ingest + c.LinkWalk*float64(p.Controllers)
	if p.Subscriptions > 0 {
		perEnvelope += c.FirstFirehose + c.NextFirehose*float64(p.Subscriptions-1)
	}
	members := p.Subscriptions * p.Nozzles
	in := p.Rate * p.EnvelopeBytes
	return Doppler{
		Cores: (p.Rate*perEnvelope + tailed*c.LinkDeliver) / 1e9,
		MemoryBytes: p.RingBytes + 1024*(c.DopplerBase+c.DopplerFirehose*float64(members)+
			c.DopplerWatch*float64(p.Tails)),
		Connections: p.Controllers + members,
		In:          in,
		Out:         in*float64(p.Subscriptions) + tailed*p.EnvelopeBytes,
		HeldSeconds: p.RingBytes / in,
	}
}

func (c Costs) controller(p Platform, tailed float64) Controller {
	clients := divideUp(p.Subscriptions*p.Nozzles, p.Controllers)
	tails := divideUp(p.Tails, p.Controllers)
	part := float64(p.Dopplers) / float64(p.Controllers)
	firehose := p.Rate * float64(p.Subscriptions) * part
	lines := tailed * part
	out := (firehose + lines) * p.EnvelopeBytes
	return Controller{
		Cores: (firehose*c.FirehosePass + lines*c.TailLine) / 1e9,
		MemoryBytes: 1024 * (c.ControllerBase + c.ControllerMember*float64(clients*p.Dopplers) +
			(c.ControllerTail+c.TailPerDoppler*float64(p.Dopplers))*float64(tails)),
		StuckBytes:  p.WindowBytes * float64(p.Dopplers),
		Connections: p.Dopplers*(1+clients) + clients + tails,
		In:          out,
		Out:         out,
	}
}

func divideUp(a, b int) int { return (a + b - 1) / b }
