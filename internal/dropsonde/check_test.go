package dropsonde_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

const prefix = "what was there"

// checkV1 turns v2 bytes and compares with the reference. Bytes that the
// scanner refuses need only do no harm.
func checkV1(t testing.TB, e *dropsonde.Encoder, v2 []byte) []*events.Envelope {
	t.Helper()
	dst, ends := e.AppendV1([]byte(prefix), []int{len(prefix)}, v2)
	if !bytes.HasPrefix(dst, []byte(prefix)) || ends[0] != len(prefix) || ends[len(ends)-1] != len(dst) {
		t.Fatalf("%q, ends %v", dst, ends)
	}
	in := &loggregatorv2.Envelope{}
	if _, err := envelope.ScanEnvelope(v2, envelope.Limits{}); err != nil || proto.Unmarshal(v2, in) != nil {
		return nil
	}
	want := referenceV1(in)
	if len(want) != len(ends)-1 {
		t.Fatalf("%d envelopes, want %d", len(ends)-1, len(want))
	}
	for i, w := range want {
		got := &events.Envelope{}
		if err := proto.Unmarshal(dst[ends[i]:ends[i+1]], got); err != nil {
			t.Fatalf("%x: %v", dst[ends[i]:ends[i+1]], err)
		}
		same(t, got, w)
	}
	return want
}

// checkV2 turns v1 bytes in both ways and compares with the reference.
func checkV2(t testing.TB, e *dropsonde.Encoder, v1 []byte) {
	t.Helper()
	for _, e.DeprecatedTags = range []bool{false, true} {
		dst, err := e.AppendV2([]byte(prefix), v1)
		if !bytes.HasPrefix(dst, []byte(prefix)) || err != nil && len(dst) != len(prefix) {
			t.Fatalf("%q: %v", dst, err)
		}
		in := &events.Envelope{}
		if bad := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(v1, in); bad != nil {
			// Parts that the event type does not ask for need not be well-formed.
			if err == nil {
				decodeV2(t, dst[len(prefix):], nil)
			}
			continue
		}
		if in.EventType == nil {
			if !errors.Is(err, dropsonde.ErrNoType) {
				t.Fatalf("no type: %v", err)
			}
			continue
		}
		got := decodeV2(t, dst[len(prefix):], err)
		if want, definite := referenceV2(in, e.DeprecatedTags); definite {
			same(t, got, want)
		}
	}
}

// decodeV2 decodes an envelope, which our own scanner has to take as well.
func decodeV2(t testing.TB, b []byte, err error) *loggregatorv2.Envelope {
	t.Helper()
	got := &loggregatorv2.Envelope{}
	if err = errors.Join(err, proto.Unmarshal(b, got)); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	if _, err := envelope.ScanEnvelope(b, envelope.Limits{}); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return got
}

// same compares by canonical bytes, as NaN is not equal to itself.
func same(t testing.TB, got, want proto.Message) {
	t.Helper()
	o := proto.MarshalOptions{Deterministic: true, AllowPartial: true}
	g, errGot := o.Marshal(got)
	w, errWant := o.Marshal(want)
	if err := errors.Join(errGot, errWant); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		t.Fatalf("got\n%s\nwant\n%s", fmt.Sprint(got), fmt.Sprint(want))
	}
}
