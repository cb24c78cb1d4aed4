package stream

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	conns := make(chan *Conn, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, AcceptOptions{Subprotocols: []string{Subprotocol}})
		if err != nil {
			t.Error(err)
			return
		}
		conns <- c
	}))
	defer srv.Close()
	ctx := context.Background()
	cl, err := Dial(ctx, srv.URL, DialOptions{Subprotocol: Subprotocol})
	if err != nil {
		t.Fatal(err)
	}
	s := <-conns
	payload := bytes.Repeat([]byte("x"), 70000)
	go func() {
		b := NewBuffer(len(payload))
		copy(b.Bytes(), payload)
		if err := s.WriteFrames([][]byte{b.Frame()[:5], b.Frame()[5:]}, nil, time.Second); err != nil {
			t.Error(err)
		}
	}()
	m, err := cl.Read(ctx)
	if err != nil || !bytes.Equal(m.Bytes(), payload) {
		t.Fatal(err)
	}
	m.Release()
	if err := cl.Send(ctx, payload); err != nil {
		t.Fatal(err)
	}
	m, err = s.Read(ctx)
	if err != nil || !bytes.Equal(m.Bytes(), payload) {
		t.Fatal(err)
	}
	m.Release()
	go func() {
		if err := s.Close(CloseDraining, "bye"); err != nil {
			t.Error(err)
		}
	}()
	_, err = cl.Read(ctx)
	var ce *CloseError
	if !errors.As(err, &ce) || ce.Code != CloseDraining || ce.Reason != "bye" {
		t.Fatal(err)
	}
	<-s.Done()
}
