package doppler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/limit"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

const (
	// announceInterval is how often a source over its limit is told so.
	announceInterval = time.Second
	// announcedAtOnce bounds how long appending announcements holds up others.
	announcedAtOnce = 100
	// tagLook is how many envelopes are looked at for the tags of a source.
	tagLook = 50
)

// limiter is that of a valid configuration; nil without --source-limit.
func (c *Config) limiter() *limit.Limiter {
	if c.SourceLimit == 0 {
		return nil
	}
	classes, err := envelope.MaskOf(c.SourceLimitTypes...)
	if err != nil {
		classes = envelope.AllClasses // Validate has seen to it
	}
	return limit.New(limit.Config{Rate: c.SourceLimit, Burst: c.SourceBurst, Classes: classes})
}

// announceLimits tells sources over their limit, each in its own stream, how
// many envelopes were left out. It ends after ingress and before readers are
// drained, so what it says last still reaches them.
func (d *Doppler) announceLimits(ctx context.Context) error {
	if d.limiter == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(announceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return d.announce(time.Now())
		case now := <-tick.C:
			if err := d.announce(now); err != nil {
				return err
			}
		}
	}
}

func (d *Doppler) announce(now time.Time) error {
	for left := range slices.Chunk(d.limiter.Untold(nil), announcedAtOnce) {
		batch := &loggregatorv2.EnvelopeBatch{}
		for _, l := range left {
			batch.Batch = append(batch.Batch, d.announcement(now, l))
		}
		msg, err := proto.Marshal(batch)
		if err != nil {
			return fmt.Errorf("encode announcements of limits: %w", err)
		}
		recs, _ := envelope.ScanBatch(msg, envelope.Limits{MaxSourceID: d.cfg.MaxSourceIDBytes}, nil)
		d.ring.Append(msg, recs)
		for _, l := range left {
			d.ring.CountLimited(l.Source, l.Count)
		}
	}
	return nil
}

// announcement is a line for people, which every client shows: without an
// instance, for it is about the source.
func (d *Doppler) announcement(now time.Time, left limit.Left) *loggregatorv2.Envelope {
	words := wsframe.Words(&streampb.Gap{Count: left.Count, Reason: streampb.Gap_RATE_LIMITED})
	text := fmt.Sprintf("%s of %d per second at %s", words, d.cfg.SourceLimit, d.cfg.Name)
	tags := d.sourceTags(left.Source)
	tags["source_type"], tags["origin"] = wsframe.SourceType, "loggregator.doppler"
	return &loggregatorv2.Envelope{
		Timestamp: now.UnixNano(), SourceId: left.Source, Tags: tags,
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text), Type: loggregatorv2.Log_ERR}},
	}
}

// sourceTags are those that say what a source is, by which nozzles sort. They
// are taken from the newest log of it that is near at hand.
func (d *Doppler) sourceTags(id string) map[string]string {
	tags := make(map[string]string)
	source, ok := d.ring.Find(id)
	if !ok {
		return tags
	}
	var newest []byte
	looked := 0
	d.ring.Newest(source, envelope.AllClasses, d.ring.Head(), func(_ uint64, class envelope.Class, env []byte) bool {
		if class == envelope.Log {
			newest = slices.Clone(env)
		}
		looked++
		return newest == nil && looked < tagLook
	})
	var e loggregatorv2.Envelope
	if err := proto.Unmarshal(newest, &e); err != nil {
		return tags // not of an envelope that was accepted
	}
	for _, name := range []string{
		"app_id", "app_name", "space_id", "space_name", "organization_id", "organization_name", "process_id", "process_type",
	} {
		if value, ok := e.GetTags()[name]; ok {
			tags[name] = value
		}
	}
	return tags
}
