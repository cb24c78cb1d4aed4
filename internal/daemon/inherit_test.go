package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestInheritedEnvironment(t *testing.T) {
	o := start(t, nil, map[string]string{
		"OLD_PORT": "8082", "OLD_ADDRS": "a:1, b:2", "OLD_INTERVAL_MS": "1500", "OLD_BUFFER": "10000", "OLD_LOCAL": "0",
		"OLD_COLOUR": "red", "ELSE": "x",
	}, "count: 3\nlinger: 4s\n", nil)
	if s := o.settings; o.code != ExitOK || s.Addr != ":8082" || !slices.Equal(s.Peers, []string{"a:1", "b:2"}) || s.Linger != 1500*time.Millisecond || s.Count != 3 {
		t.Fatalf("exit %d, %+v: %s", o.code, o.settings, o.stderr)
	}
	if n := strings.Count(o.stderr, "not all of the environment is used"); n != 1 {
		t.Errorf("reported %d times: %s", n, o.stderr)
	}
	for _, want := range []string{"OLD_BUFFER has no effect: there is no such buffer", `"unknown":["OLD_COLOUR"]`} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("%q is not in %s", want, o.stderr)
		}
	}
	for _, secret := range []string{"red", "ELSE"} {
		if strings.Contains(o.stderr, secret) {
			t.Errorf("%q is in %s", secret, o.stderr)
		}
	}
}

func TestInheritedPrecedence(t *testing.T) {
	o := start(t, []string{"--addr", ":3"}, map[string]string{"OLD_PORT": "1"}, "", nil)
	if o.code != ExitOK || o.settings.Addr != ":3" {
		t.Errorf("a flag does not win: %+v", o.settings)
	}
	o = start(t, nil, map[string]string{"OLD_PORT": "1", "TEST_SERVICE_ADDR": ":1", "OLD_ADDRS": "x", "TEST_SERVICE_PEER": "x"}, "", nil)
	if o.code != ExitOK || o.settings.Addr != ":1" || !slices.Equal(o.settings.Peers, []string{"x"}) {
		t.Errorf("the same twice is no fault: %s", o.stderr)
	}
	if strings.Contains(o.stderr, "environment") {
		t.Errorf("reported for nothing: %s", o.stderr)
	}
}

func TestInheritedFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		says string
	}{
		"own":      {map[string]string{"OLD_PORT": "1", "TEST_SERVICE_ADDR": ":2"}, "OLD_PORT and TEST_SERVICE_ADDR set --addr to different values"},
		"own list": {map[string]string{"OLD_ADDRS": "a,b", "TEST_SERVICE_PEER": "b,a"}, "OLD_ADDRS and TEST_SERVICE_PEER"},
		"old":      {map[string]string{"OLD_INTERVAL_MS": "1", "OLD_LINGER": "1s"}, "OLD_LINGER and OLD_INTERVAL_MS set --linger"},
		"port":     {map[string]string{"OLD_PORT": "70000"}, `OLD_PORT: "70000" is not a port`},
		"no port":  {map[string]string{"OLD_LOCAL": "http"}, `OLD_LOCAL: "http" is not a port`},
		"number":   {map[string]string{"OLD_INTERVAL_MS": "5s"}, `OLD_INTERVAL_MS: "5s" is not a whole number`},
		"value":    {map[string]string{"OLD_LINGER": "soon"}, `OLD_LINGER: "soon" is not a duration`},
	} {
		o := start(t, nil, tc.env, "", nil)
		if o.code != ExitUsage || o.ran || !strings.Contains(o.stderr, tc.says) {
			t.Errorf("%s: exit %d: %s", name, o.code, o.stderr)
		}
	}
}
