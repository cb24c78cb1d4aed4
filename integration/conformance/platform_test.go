package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// platform is what the vectors are replayed against: a UAA and Cloud
// Controller, a Doppler, and a Traffic Controller in several ways.
type platform struct {
	*pipeline.Pipeline
	cf *pipeline.CF
	// Traffic Controllers: one with access control, one that has room for one
	// stream, one whose streams of /v2/read are brief, and one without access
	// control.
	main, full, brief, open *pipeline.Service
	security                string // log of main
	producer                *grpc.ClientConn
	stream                  grpc.ClientStream
}

// briefly is how long a stream of /v2/read lives at one of the Traffic
// Controllers: longer than its first heartbeat takes.
const briefly = 16 * time.Second

func startPlatform(ctx context.Context, dir string) (*platform, error) {
	p := &platform{security: filepath.Join(dir, "security.log")}
	var err error
	if p.cf, err = pipeline.StartCF(programs); err != nil {
		return nil, err
	}
	p.Pipeline, err = pipeline.Start(ctx, pipeline.Config{
		Binaries: programs, Dopplers: 1, Access: p.cf.Access(),
		DopplerArgs: []string{"--metric-interval", "0", "--ring-bytes", "64MiB", "--drain-grace", "0s"},
		ControllerArgs: []string{"--access-cache", "0s", "--system-domain", "sys.example.com", "--drain-grace", "0s",
			// As of old: proxies are believed, the second of the vectors' too, and pages of any origin.
			"--trusted-proxy", "127.0.0.0/8", "--trusted-proxy", "203.0.113.0/24", "--any-origin"},
	})
	if err != nil {
		return nil, errors.Join(err, p.stop(ctx))
	}
	for _, c := range []struct {
		at   **pipeline.Service
		args []string
	}{
		{&p.main, []string{"--security-log", p.security, "--ip", "10.0.1.2"}},
		{&p.full, []string{"--max-connections", "1"}},
		{&p.brief, []string{"--read-timeout", briefly.String()}},
		{&p.open, []string{"--disable-access-control"}},
	} {
		if *c.at, err = p.AddController(ctx, c.args...); err == nil {
			err = p.WaitReady(ctx, *c.at)
		}
		if err != nil {
			return nil, errors.Join(err, p.stop(ctx))
		}
	}
	return p, p.connect(ctx)
}

// connect opens the one stream that all envelopes go in by.
func (p *platform) connect(ctx context.Context) (err error) {
	p.producer, err = grpc.NewClient("passthrough:///"+p.Dopplers[0].Addrs[pipeline.GRPC],
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		return err
	}
	p.stream, err = p.producer.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/loggregator.v2.Ingress/BatchSender")
	return err
}

func (p *platform) stop(ctx context.Context) error {
	var errs []error
	if p.producer != nil {
		errs = append(errs, p.producer.Close())
	}
	if p.Pipeline != nil {
		errs = append(errs, p.Pipeline.Stop(ctx))
	}
	_, err := p.cf.Stop(ctx)
	http.DefaultClient.CloseIdleConnections()
	return errors.Join(append(errs, err)...)
}

// raw sends encoded messages as they are: some of them are malformed.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }

// emit sends encoded v2 envelopes to the Doppler, one batch each: what is
// malformed cannot spoil a neighbour.
func (p *platform) emit(t *testing.T, envelopes ...[]byte) {
	t.Helper()
	for _, e := range envelopes {
		batch := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), e)
		if err := p.stream.SendMsg(batch); err != nil {
			t.Fatal(err)
		}
	}
}

func encode(t *testing.T, e *loggregatorv2.Envelope) []byte {
	t.Helper()
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answers makes UAA and Cloud Controller answer this way, and forget what they
// were asked.
func (p *platform) answers(ctx context.Context, t *testing.T, list ...fakecf.Answer) {
	t.Helper()
	if err := p.cf.Control(ctx, http.MethodPut, "/answers", list, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.cf.Control(ctx, http.MethodDelete, "/requests", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// says is an answer from "200 body".
func says(t *testing.T, server, reply string) fakecf.Answer {
	t.Helper()
	status, body, _ := strings.Cut(reply, " ")
	n, err := strconv.Atoi(status)
	if err != nil {
		t.Fatal(err)
	}
	return fakecf.Answer{Server: server, Status: n, Body: body}
}

// asked lists the questions in the way the vectors have them.
func (p *platform) asked(ctx context.Context, t *testing.T) (list []string) {
	t.Helper()
	var requests []fakecf.Request
	if err := p.cf.Control(ctx, http.MethodGet, "/requests", nil, &requests); err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if r.Server != "uaa" {
			list = append(list, fmt.Sprintf("%s %s Authorization=%q", r.Method, r.Path, r.Authorization))
			continue
		}
		basic, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Authorization, "Basic "))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %s basic=%s ct=%s body=%s", r.Method, r.Path, basic, r.ContentType, r.Body))
	}
	return list
}

// row is one reader in the view of a service.
type row struct {
	Kind, Remote, State, Filter string
	Shard                       string `json:"shard_id"`
}

// rows asks a service who reads.
func rows(ctx context.Context, t *testing.T, s *pipeline.Service) []row {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addrs[pipeline.Admin]+"/subscriptions", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var view struct{ Subscriptions []row }
	if err := json.NewDecoder(resp.Body).Decode(&view); err != nil {
		t.Fatal(err)
	}
	return view.Subscriptions
}

// until waits until done says so, looking again and again.
func until(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}

// member waits until the client with a local address is a member of a group at
// the Doppler, the only one.
func (p *platform) member(ctx context.Context, t *testing.T, local string) {
	t.Helper()
	until(ctx, t, "the client to be a member", func() bool {
		list := rows(ctx, t, p.Dopplers[0])
		i := slices.IndexFunc(list, func(r row) bool { return r.Kind == "firehose" && r.Remote == local })
		return i >= 0 && !slices.ContainsFunc(list, func(r row) bool {
			return r.Kind == "firehose" && r.State == "open" && r.Shard == list[i].Shard && r.Filter == list[i].Filter && r.Remote != local
		})
	})
}

// tailing waits until the client with a local address is a tail that has joined.
func (p *platform) tailing(ctx context.Context, t *testing.T, c *pipeline.Service, local string) {
	t.Helper()
	until(ctx, t, "the tail to join", func() bool {
		for _, r := range rows(ctx, t, c) {
			if r.Kind == "tail" && r.Remote == local && r.State == "open" {
				return true
			}
		}
		return false
	})
}

// vectors reads the cases of a file.
func vectors[T any](t *testing.T, path string, name func(T) string) []T {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []T }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range file.Cases {
		names = append(names, name(c))
	}
	all.file(filepath.Base(path), names)
	return file.Cases
}
