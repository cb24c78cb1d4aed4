package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/integration/fakecf"
)

func TestRun(t *testing.T) {
	file := t.TempDir() + "/state.json"
	if err := os.WriteFile(file, []byte(`{"apps":[{"guid":"a1","name":"shop"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-state", file, "-token", "tok=cloud_controller.admin,logs.admin"}, out)
		_ = out.Close()
	}()
	line, err := bufio.NewReader(in).ReadBytes('\n')
	var ready fakecf.Ready
	if err != nil || json.Unmarshal(line, &ready) != nil {
		t.Fatal(err, string(line))
	}
	if _, err := os.Stat(ready.CCKey); err != nil {
		t.Error(err)
	}
	r, _ := http.NewRequest(http.MethodGet, ready.External+"/v3/apps/a1", nil)
	r.Header.Set("Authorization", "bearer tok")
	client := &http.Transport{DisableKeepAlives: true}
	resp, err := client.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ready.CCKey); err == nil {
		t.Error("the temporary directory is left")
	}
}

func TestFaults(t *testing.T) {
	for _, args := range [][]string{{"-state", "nowhere.json"}, {"-token", "x"}, {"-nothing"}, {"-uaa", "nowhere:x"}} {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(args[0], "-")) && len(args) == 1 {
			t.Errorf("%q: %v", args, err)
		}
	}
}
