package conformance

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// printCase is how cf logs prints a message.
type printCase struct {
	Message struct {
		Type, Text     string
		SourceType     string `json:"source_type"`
		SourceInstance string `json:"source_instance"`
	}
	Plain  []string `json:"v6_26_and_later_v7_v8"`
	Colour []string `json:"same_with_colour"`
}

// notPrinted is what of the file is no business of these programs.
const notPrinted = "during_push_no_header, v6_legacy: layouts of cf itself, which gets the same fields"

// TestPrinting emits each message and has lgr print it, in the zone of the
// file.
func TestPrinting(t *testing.T) {
	const file = "cf_logs_format.json"
	ctx := deadline(t)
	name := func(c printCase) string {
		return fmt.Sprintf("%s/%s %q", c.Message.SourceType, c.Message.SourceInstance, c.Message.Text)
	}
	cases := vectors(t, "testdata/"+file, name)
	for i, c := range cases {
		m := c.Message
		here.emit(t, encode(t, &loggregatorv2.Envelope{
			Timestamp: 1700000000_987654321, SourceId: fmt.Sprintf("print-%d", i), InstanceId: m.SourceInstance, Tags: map[string]string{"source_type": m.SourceType},
			Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(m.Text), Type: loggregatorv2.Log_Type(loggregatorv2.Log_Type_value[m.Type])}},
		}))
	}
	for i, c := range cases {
		var d []difference
		for when, want := range map[string][]string{"never": c.Plain, "always": c.Colour} {
			if got := printed(ctx, t, fmt.Sprintf("print-%d", i), when); got != strings.Join(want, "\n")+"\n" {
				d = append(d, difference{"print, colour " + when, strings.Join(want, "\n"), got})
			}
		}
		var notes []string
		if i == 0 {
			notes = append(notes, notPrinted)
		}
		all.judge(t, file, i, d, notes...)
	}
}

// printed is what lgr prints of a source: the one line that is there.
func printed(ctx context.Context, t *testing.T, source, colour string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := process.Start(process.Command{
		Path: programs.Path(process.Lgr), Env: []string{"TZ=Etc/GMT+8"}, Stdout: &out,
		Args: []string{"logs", source, "--recent=1", "--color", colour, "--addr", "http://" + here.open.Addrs[pipeline.Public]},
	})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		t.Fatalf("lgr logs: code %d, %v: %s", code, err, p.Log())
	}
	return out.String()
}
