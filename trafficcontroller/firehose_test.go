package trafficcontroller

import (
	"context"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

func TestFirehoseOverTwoDopplers(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	fire := r.read("/firehose/nozzle?type=log")
	fire.joined(2)
	a.Emit("app", "a", 1000)
	b.Emit("app", "b", 1000)
	b.With(func(d *dopplertest.Doppler) { d.Append("app", "a-counter", "c", 1) })
	fire.want(append(ids("app", "a", 0, 1000), ids("app", "b", 0, 1000)...)...)
	eventually(t, "everything is acked", func() bool { return a.Unacked("nozzle")+b.Unacked("nozzle") == 0 })
	if row := r.get("/v2/subscriptions"); !strings.Contains(row.body, `"kind":"firehose"`) || !strings.Contains(row.body, `"shard_id":"nozzle"`) {
		t.Errorf("views: %s", row.body)
	}
	fire.close()
	eventually(t, "access log", func() bool {
		return r.logs.with(`"msg":"stream closed"`, `"kind":"firehose"`, `"envelopes":2000`, `"subscription":"nozzle"`)
	})
}

func TestFirehoseClientThatAcks(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, nil, a)
	fire := r.read("/firehose/nozzle?ack=client")
	fire.joined(1)
	a.Emit("app", "x", 100)
	fire.want(ids("app", "x", 0, 100)...)
	if n := a.Unacked("nozzle"); n != 100 {
		t.Fatalf("%d of 100 are open before the ack", n)
	}
	ack := stream.AppendAck(nil, "a", 1, stream.OffsetRange{First: 0, Last: 99})
	if err := fire.conn.Send(t.Context(), ack); err != nil {
		t.Fatal(err)
	}
	eventually(t, "acked", func() bool { return a.Unacked("nozzle") == 0 })
}

func TestFirehoseGoesOnWhereItWas(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, nil, a)
	fire := r.read("/firehose/nozzle")
	fire.joined(1)
	a.Emit("app", "x", 100)
	fire.want(ids("app", "x", 0, 100)...)
	eventually(t, "acked", func() bool { return a.Unacked("nozzle") == 0 })
	a.Break()
	a.Emit("app", "y", 100)
	fire.want(append(ids("app", "x", 0, 100), ids("app", "y", 0, 100)...)...)
	dials := a.Dials()
	if len(dials) != 2 || strings.Contains(dials[0], "start=origin") || !strings.Contains(dials[1], "start=origin") || !strings.Contains(dials[1], "cursor=") {
		t.Errorf("dials: %v", dials)
	}
	// A new epoch is read from its origin, and told apart by the cursor.
	addr := a.Addr()
	a.Stop(true)
	again, err := dopplertest.Serve(&dopplertest.Doppler{Name: "a", Epoch: 2}, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Stop(false) })
	again.Emit("app", "z", 10)
	eventually(t, "the new epoch", func() bool { return fire.count() == 210 })
	cursor, err := stream.DecodeCursor(query(t, again.Dials()[0], "cursor"))
	if err != nil || len(cursor.GetEntries()) != 1 || cursor.Entries[0].Epoch != 1 || cursor.Entries[0].Seen != 200 || !cursor.Entries[0].Finished {
		t.Errorf("cursor %v, %v", cursor, err)
	}
}

func TestFirehoseOfADopplerThatIsFoundLater(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, nil, a)
	fire := r.read("/firehose/nozzle")
	fire.joined(1)
	b := doppler(t, "b", 1)
	b.Emit("app", "early", 50)
	r.dopplers(a, b)
	fire.want(ids("app", "early", 0, 50)...)
}

func TestClientThatTalksNonsense(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, nil, a)
	for _, path := range []string{"/firehose/nozzle", "/apps/app/stream"} {
		conn, err := r.dial(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Send(t.Context(), []byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		code := stream.CloseCode(0)
		for code == 0 {
			b, err := conn.Read(context.Background())
			if err != nil {
				code = closeCode(err)
				break
			}
			b.Release()
		}
		conn.CloseNow()
		if code != stream.CloseBadMessage {
			t.Errorf("%s: closed with %v", path, code)
		}
	}
}
