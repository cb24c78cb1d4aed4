package daemon

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRefusals(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "bad" {
			http.Error(w, "bad", http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/", http.NotFound)
	mux.HandleFunc("/taken", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		_ = conn.Close()
	})
	r := NewRefusals("some")
	server := httptest.NewServer(r.Wrap(mux))
	defer server.Close()
	for path, status := range map[string]int{
		"/things/good": 200, "/things/bad": 400, "/things/bad?again": 400, "/nothing": 404, "/%00": 404, "/taken": 204,
	} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
	want := `
# HELP some_http_refused_total Requests answered with a status of 400 or more.
# TYPE some_http_refused_total counter
some_http_refused_total{code="400",path="/things/{id}"} 2
some_http_refused_total{code="404",path="other"} 2
`
	if err := testutil.CollectAndCompare(r.Collector(), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
