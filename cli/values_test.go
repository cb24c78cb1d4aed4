package cli

import (
	"testing"
)

func TestRates(t *testing.T) {
	for text, want := range map[string]perSecond{"max": 0, "0.5": 0.5, "100": 100, "100/s": 100} {
		if got, err := parsePerSecond(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "NaN", "+Inf", "1e300", "many"} {
		if got, err := parsePerSecond(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:8081":       "http://127.0.0.1:8081",
		"localhost":            "http://localhost",
		"ws://h:1":             "http://h:1",
		"wss://doppler.x:443/": "https://doppler.x:443",
		"https://h/base/":      "https://h/base",
	} {
		if got, err := baseURL(text); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "http://", "ftp://x", "http://[::1", "a b"} {
		if got, err := baseURL(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}
