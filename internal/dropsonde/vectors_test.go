package dropsonde_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// output is what the old system made, or why it could not.
type output struct {
	Hex       hexBytes `json:"hex"`
	WireError string   `json:"wire_error"`
	Partial   hexBytes `json:"partial_hex"`
}

type vector struct {
	ID         string   `json:"id"`
	V2         hexBytes `json:"v2_hex"`
	V2Error    string   `json:"v2_json_error"`
	ToV1       []output `json:"v1"`
	V1         hexBytes `json:"v1_hex"`
	Preferred  output   `json:"v2_preferred_tags"`
	Deprecated output   `json:"v2_deprecated_tags"`
}

func vectors(t testing.TB, file string, n int) []vector {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Cases []vector `json:"cases"`
	}
	if err := json.Unmarshal(raw, &all); err != nil || len(all.Cases) != n {
		t.Fatalf("%d cases, want %d: %v", len(all.Cases), n, err)
	}
	return all.Cases
}

func v2Vectors(t testing.TB) []vector { return vectors(t, "v2_to_v1.json", 97) }
func v1Vectors(t testing.TB) []vector { return vectors(t, "v1_to_v2.json", 35) }

// improvedV1 are the cases where the old system has no v1 envelope and we do:
// what it lacks, by the case's id.
var improvedV1 = map[string]func(*events.Envelope){
	"log-empty-payload":       emptyMessage, // blank lines reach old clients
	"timer-no-request-id":     zeroRequest,  // a timer not made by gorouter
	"timer-bad-request-id":    zeroRequest,  // 35 characters
	"timer-nonhex-request-id": zeroRequest,  // 36, but no digits
}

func emptyMessage(e *events.Envelope) { e.LogMessage.Message = []byte{} }

func zeroRequest(e *events.Envelope) {
	e.HttpStartStop.RequestId = &events.UUID{Low: proto.Uint64(0), High: proto.Uint64(0)}
}

func TestVectorsToV1(t *testing.T) {
	var e dropsonde.Encoder
	improved := 0
	for _, c := range v2Vectors(t) {
		t.Run(c.ID, func(t *testing.T) {
			if c.V2Error != "" { // never gets here
				if _, err := envelope.ScanEnvelope(c.V2, envelope.Limits{}); err == nil {
					t.Error("the scanner takes it")
				}
				return
			}
			checkV1(t, &e, c.V2)
			dst, ends := e.AppendV1(nil, nil, c.V2)
			if len(ends) != len(c.ToV1) {
				t.Fatalf("%d envelopes, want %d", len(ends), len(c.ToV1))
			}
			start := 0
			for i, o := range c.ToV1 {
				got := &events.Envelope{}
				if err := proto.Unmarshal(dst[start:ends[i]], got); err != nil {
					t.Fatal(err)
				}
				want := &events.Envelope{}
				if o.WireError != "" {
					improved++
				}
				decodeOutput(t, c.ID, o, want)
				same(t, got, want)
				start = ends[i]
			}
		})
	}
	if improved != len(improvedV1) {
		t.Errorf("%d cases improved, want %d", improved, len(improvedV1))
	}
}

func decodeOutput(t *testing.T, id string, o output, want *events.Envelope) {
	t.Helper()
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(append(o.Hex, o.Partial...), want); err != nil {
		t.Fatal(err)
	}
	improve, ok := improvedV1[id]
	if ok != (o.WireError != "") {
		t.Fatalf("improved %v, but the old system says %q", ok, o.WireError)
	}
	if ok {
		improve(want)
	}
}

// improvedV2 are the cases where the old system has no v2 envelope: the source
// id that we give it.
var improvedV2 = map[string]string{
	"log-invalid-utf8-app-id": "\uFFFD", // the app id is the byte 0xff
}

func TestVectorsToV2(t *testing.T) {
	var e dropsonde.Encoder
	for _, c := range v1Vectors(t) {
		t.Run(c.ID, func(t *testing.T) {
			checkV2(t, &e, c.V1)
			for deprecated, o := range map[bool]output{false: c.Preferred, true: c.Deprecated} {
				e.DeprecatedTags = deprecated
				dst, err := e.AppendV2(nil, c.V1)
				got := decodeV2(t, dst, err)
				source, improved := improvedV2[c.ID]
				if improved != (o.WireError != "") {
					t.Fatalf("improved %v, but the old system says %q", improved, o.WireError)
				}
				if improved {
					if got.GetSourceId() != source {
						t.Errorf("source id %q, want %q", got.GetSourceId(), source)
					}
					continue
				}
				want := &loggregatorv2.Envelope{}
				if err := proto.Unmarshal(o.Hex, want); err != nil {
					t.Fatal(err)
				}
				same(t, got, want)
			}
		})
	}
}
