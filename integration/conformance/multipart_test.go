package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// multipartCase is an observed body of recentlogs or containermetrics.
type multipartCase struct {
	Case        string
	ContentType string     `json:"content_type"`
	Parts       []hexBytes `json:"part_payload_hex"`
	Body        hexBytes   `json:"body_hex"`
}

// TestMultipart emits the logs of each body, one source per case, and reads
// recentlogs. A part that was no envelope goes in as the text of a log.
func TestMultipart(t *testing.T) {
	const file = "multipart.json"
	ctx := deadline(t)
	for i, c := range vectors(t, "testdata/"+file, func(c multipartCase) string { return c.Case }) {
		t.Run(c.Case, func(t *testing.T) {
			var notes []string
			var parts [][]byte
			source := fmt.Sprintf("multipart-%d", i)
			for _, p := range c.Parts {
				v1, note := logOf(p, source)
				if note != "" {
					notes = append(notes, note)
				}
				here.emit(t, encode(t, fromV1(v1)))
				part, err := proto.MarshalOptions{Deterministic: true}.Marshal(v1)
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, part)
			}
			all.judge(t, file, i, c.compare(ctx, t, source, parts), notes...)
		})
	}
}

// logOf is the log of a part, given to a source.
func logOf(part []byte, source string) (e *events.Envelope, note string) {
	e = &events.Envelope{}
	if proto.Unmarshal(part, e) != nil || e.LogMessage == nil {
		note = "the part is no envelope; it was sent as the text of one"
		e = &events.Envelope{
			Origin: proto.String(""), EventType: events.Envelope_LogMessage.Enum(), Timestamp: proto.Int64(1),
			Deployment: proto.String(""), Job: proto.String(""), Index: proto.String(""), Ip: proto.String(""),
			LogMessage: &events.LogMessage{
				Message: append([]byte{}, part...), MessageType: events.LogMessage_OUT.Enum(), Timestamp: proto.Int64(1),
				SourceType: proto.String(""), SourceInstance: proto.String(""),
			},
		}
	}
	e.LogMessage.AppId, e.Tags = proto.String(source), map[string]string{"source_id": source}
	return e, note
}

// fromV1 is the v2 log that becomes a v1 log.
func fromV1(e *events.Envelope) *loggregatorv2.Envelope {
	l := e.LogMessage
	return &loggregatorv2.Envelope{
		Timestamp: e.GetTimestamp(), SourceId: l.GetAppId(), InstanceId: l.GetSourceInstance(),
		Tags: map[string]string{
			"origin": e.GetOrigin(), "deployment": e.GetDeployment(), "job": e.GetJob(), "index": e.GetIndex(), "ip": e.GetIp(),
			"source_type": l.GetSourceType(),
		},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{
			Payload: l.GetMessage(), Type: loggregatorv2.Log_Type(l.GetMessageType() - events.LogMessage_OUT),
		}},
	}
}

// compare reads recentlogs until all parts are there, and compares the body
// byte by byte with the recorded one, but for boundary and parts.
func (c multipartCase) compare(ctx context.Context, t *testing.T, source string, parts [][]byte) (d []difference) {
	t.Helper()
	_, recorded, _ := strings.Cut(c.ContentType, "boundary=")
	var answer *client
	var body []byte
	var boundary string
	until(ctx, t, "all logs to be there", func() bool {
		answer = do(ctx, t, here.open, exchange{Path: "/apps/" + source + "/recentlogs"})
		defer answer.conn.Close()
		var err error
		if body, err = io.ReadAll(answer.Body); err != nil {
			t.Fatal(err)
		}
		_, boundary, _ = strings.Cut(answer.Header.Get("Content-Type"), "boundary=")
		return bytes.Count(body, []byte("--"+boundary+"\r\n")) == len(parts)
	})
	if want := c.ContentType[:len(c.ContentType)-len(recorded)] + boundary; answer.Header.Get("Content-Type") != want || len(boundary) != len(recorded) {
		d = append(d, difference{"header Content-Type", c.ContentType, answer.Header.Get("Content-Type")})
	}
	if answer.StatusCode != http.StatusOK {
		d = append(d, difference{"status", "200", answer.Status})
	}
	want := bytes.ReplaceAll(c.Body, []byte(recorded), []byte(boundary))
	for i, p := range c.Parts { // what went in in their place
		at := bytes.Index(want, append([]byte("\r\n\r\n"), p...)) + 4
		want = append(append(append([]byte{}, want[:at]...), fmt.Appendf(nil, "part %d", i)...), want[at+len(p):]...)
	}
	for i, p := range parts {
		want = bytes.Replace(want, fmt.Appendf(nil, "part %d", i), p, 1)
	}
	if !bytes.Equal(body, want) {
		d = append(d, difference{"body", fmt.Sprintf("%x", want), fmt.Sprintf("%x", body)})
	}
	return d
}
