package fakecf

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testState() State {
	return State{
		Users: []User{
			{Name: "admin", Scopes: []string{"doppler.firehose", "cloud_controller.admin"}},
			{Name: "alice", Password: "pw", Scopes: []string{"cloud_controller.read"}, Apps: []string{"a1", "a2", "a3"}, ServiceInstances: []string{"s1"}},
			{Name: "nobody", Scopes: []string{"openid"}},
		},
		Tokens: []Token{{Token: "A", User: "admin"}, {Token: "L", User: "alice"}, {Token: "N", User: "nobody"}, {Token: "old", User: "alice", Expires: 1}},
		Apps: []Resource{
			{GUID: "a1", Name: "shop", Processes: []string{"p1"}}, {GUID: "a2", Name: "blog"}, {GUID: "a3", Name: "shop"}, {GUID: "a4", Name: "secret"},
		},
		ServiceInstances: []Resource{{GUID: "s1", Name: "db"}, {GUID: "s2", Name: "queue"}},
		Links:            map[string]string{"logging": "wss://doppler.example:4443", "log_cache": "https://log-cache.example"},
	}
}

// client reaches all of a Fake.
type client struct {
	*Fake
	t    *testing.T
	http map[string]*http.Transport // by address
}

func start(t *testing.T, s State) *client {
	t.Helper()
	f, err := Start(t.Context(), Options{Dir: t.TempDir(), State: s})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{f, t, map[string]*http.Transport{f.Ready.External: {}, f.Ready.Control: {}}}
	trust := func(address, ca string) {
		config, err := mtls.Trusting(ca, "127.0.0.1", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.http[address] = &http.Transport{TLSClientConfig: config}
	}
	trust(f.Ready.UAA, f.Ready.UAACA)
	trust(f.Ready.ExternalTLS, f.Ready.ExternalCA)
	config, err := mtls.Client(mtls.Files{Cert: f.Ready.CCCert, Key: f.Ready.CCKey, CA: f.Ready.CCCA}, f.Ready.CCServerName)
	if err != nil {
		t.Fatal(err)
	}
	c.http[f.Ready.CC] = &http.Transport{TLSClientConfig: config}
	t.Cleanup(func() {
		for _, h := range c.http {
			h.CloseIdleConnections()
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// do sends a request; form makes it a POST of UAA's client.
func (c *client) do(ctx context.Context, method, address, path, token, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, address+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "bearer "+token)
	}
	if address == c.Ready.UAA && method == http.MethodPost {
		r.SetBasicAuth("doppler", "secret")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.http[address].RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(got), err
}

func (c *client) must(method, address, path, token, body string) (int, string) {
	c.t.Helper()
	status, got, err := c.do(c.t.Context(), method, address, path, token, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return status, got
}

func TestAnswers(t *testing.T) {
	c := start(t, testState())
	r := c.Ready
	for _, test := range []struct {
		method, address, path, token, body string
		status                             int
		says                               string
	}{
		{"POST", r.UAA, "/check_token", "", "token=A", 200, `"scope":["doppler.firehose","cloud_controller.admin"]`},
		{"POST", r.UAA, "/check_token", "", "token=old", 400, "invalid_token"},
		{"POST", r.UAA, "/check_token", "", "token=unknown", 400, "invalid_token"},
		{"GET", r.UAA, "/nothing", "", "", 404, ""},
		{"GET", r.CC, "/internal/v4/log_access/a1", "L", "", 200, ""},
		{"GET", r.CC, "/internal/v4/log_access/p1", "L", "", 200, ""},
		{"GET", r.CC, "/internal/v4/log_access/a4", "L", "", 404, ""},
		{"GET", r.CC, "/internal/v4/log_access/a4", "A", "", 200, ""},
		{"GET", r.CC, "/internal/v4/log_access/a9", "A", "", 404, ""},
		{"GET", r.CC, "/internal/v4/log_access/a1", "N", "", 403, ""},
		{"GET", r.CC, "/internal/v4/log_access/a1", "old", "", 401, ""},
		{"GET", r.CC, "/internal/v4/log_access/a1", "", "", 401, ""},
		{"GET", r.External, "/v3/apps/a1", "L", "", 200, `"guid":"a1"`},
		{"GET", r.External, "/v3/apps/a4", "L", "", 404, "CF-ResourceNotFound"},
		{"GET", r.ExternalTLS, "/v3/service_instances/s1", "L", "", 200, `"guid":"s1"`},
		{"GET", r.ExternalTLS, "/v3/service_instances/s2", "L", "", 404, ""},
		{"GET", r.External, "/v3/apps?names=shop,nothing&per_page=5000", "L", "", 200, `"total_results":2`},
		{"GET", r.External, "/v3/apps?per_page=5001", "L", "", 400, ""},
		{"GET", r.External, "/v3/apps?page=x", "L", "", 400, ""},
		{"GET", r.External, "/", "", "", 200, `"logging":{"href":"wss://doppler.example:4443"}`},
		{"GET", r.External, "/v2/info", "", "", 200, `"doppler_logging_endpoint":"wss://doppler.example:4443"`},
	} {
		if status, body := c.must(test.method, test.address, test.path, test.token, test.body); status != test.status || !strings.Contains(body, test.says) {
			t.Errorf("%s %s as %q: %d %s", test.method, test.path, test.token, status, body)
		}
	}
}

func TestPages(t *testing.T) {
	c := start(t, testState())
	path, guids := "/v3/apps?per_page=2", []string{}
	for path != "" {
		status, body := c.must("GET", c.Ready.External, path, "A", "")
		var page struct {
			Pagination struct{ Next *struct{ Href string } }
			Resources  []Resource
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 {
			t.Fatal(err, body)
		}
		for _, r := range page.Resources {
			guids = append(guids, r.GUID)
		}
		path = ""
		if page.Pagination.Next != nil {
			path = strings.TrimPrefix(page.Pagination.Next.Href, c.Ready.External)
		}
	}
	if !slices.Equal(guids, []string{"a1", "a2", "a3", "a4"}) {
		t.Error(guids)
	}
}

func TestOwnClientHasToBeRight(t *testing.T) {
	c := start(t, State{Client: "doppler", Secret: "other"})
	if status, body := c.must("POST", c.Ready.UAA, "/check_token", "", "token=A"); status != 401 {
		t.Error(status, body)
	}
}

func TestInternalAPIWantsACertificate(t *testing.T) {
	c := start(t, testState())
	h := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer h.CloseIdleConnections()
	r, _ := http.NewRequest(http.MethodGet, c.Ready.CC+"/internal/v4/log_access/a1", nil)
	if resp, err := h.RoundTrip(r); err == nil {
		t.Error("answered ", resp.Status)
	}
	if len(c.Requests()) != 0 {
		t.Error("was served")
	}
}

// TestJWT verifies a token by nothing but what /token_keys says.
func TestJWT(t *testing.T) {
	c := start(t, testState())
	verify := func(token string) (claims struct {
		Scope  []string `json:"scope"`
		UserID string   `json:"user_id"`
		Exp    int64    `json:"exp"`
	}, err error) {
		_, body := c.must("GET", c.Ready.UAA, "/token_keys", "", "")
		var keys jose.JSONWebKeySet
		if err := json.Unmarshal([]byte(body), &keys); err != nil || !strings.Contains(body, "BEGIN PUBLIC KEY") {
			t.Fatal(err, body)
		}
		parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
		if err == nil {
			err = parsed.Claims(keys, &claims)
		}
		return claims, err
	}
	if _, body := c.must("GET", c.Ready.UAA, "/.well-known/openid-configuration", "", ""); !strings.Contains(body, `"issuer":"`+c.Ready.UAA+`/oauth/token"`) {
		t.Error("discovery says", body)
	}
	token, err := c.Issue("alice", JWT, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := verify(token)
	if err != nil || claims.UserID != "alice" || !slices.Equal(claims.Scope, []string{"cloud_controller.read"}) || time.Until(time.Unix(claims.Exp, 0)) > time.Minute {
		t.Errorf("%+v %v", claims, err)
	}
	if status, _ := c.must("GET", c.Ready.CC, "/internal/v4/log_access/a1", token, ""); status != 200 {
		t.Error("Cloud Controller does not know the token:", status)
	}
	expired, _ := c.Issue("alice", JWT, -time.Minute)
	if status, _ := c.must("POST", c.Ready.UAA, "/check_token", "", "token="+expired); status != 400 {
		t.Error("an expired token is known:", status)
	}
	if err := c.RotateKeys(); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(token); err == nil {
		t.Error("the old key is still served")
	}
	for _, bad := range [][2]string{{"mallory", JWT}, {"alice", "gold"}} {
		if _, err := c.Issue(bad[0], bad[1], time.Minute); err == nil {
			t.Error("issued", bad)
		}
	}
}

func TestGrants(t *testing.T) {
	s := testState()
	s.Users = append(s.Users, User{Name: "doppler", Password: "secret", Scopes: []string{"uaa.resource"}})
	c := start(t, s)
	for form, want := range map[string]int{
		"grant_type=password&username=alice&password=pw": 200, "grant_type=password&username=alice&password=x": 401,
		"grant_type=refresh_token&refresh_token=alice": 200, "grant_type=refresh_token&refresh_token=mallory": 401,
		"grant_type=client_credentials": 200, "grant_type=magic": 400,
	} {
		status, body := c.must("POST", c.Ready.UAA, "/oauth/token", "", form)
		var said struct {
			Token string `json:"access_token"`
		}
		_ = json.Unmarshal([]byte(body), &said)
		if status != want || (said.Token == "") == (want == 200) {
			t.Errorf("%s: %d %s", form, status, body)
		}
		if want == 200 {
			if status, _ := c.must("POST", c.Ready.UAA, "/check_token", "", "token="+said.Token); status != 200 {
				t.Errorf("%s: its token is not known", form)
			}
		}
	}
}

func TestMisbehaviour(t *testing.T) {
	c := start(t, testState())
	ask := func() (int, string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return c.do(ctx, "GET", c.Ready.CC, "/internal/v4/log_access/a1", "L", "")
	}
	for how, want := range map[How]string{
		Hang: "deadline", Stall: "deadline", Drop: "EOF", Garbage: "malformed", Truncate: "unexpected EOF",
	} {
		c.Change(func(s *State) { s.Answers = []Answer{{Server: "cc", How: how, Body: "{}"}} })
		if _, _, err := ask(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", how, err)
		}
	}
	c.Change(func(s *State) {
		s.Answers = []Answer{{Token: "A", Status: 500}, {Token: "L", Status: 418, Body: "tea", Times: 2}}
	})
	for i, want := range []int{418, 418, 200} {
		if status, _, err := ask(); status != want || err != nil {
			t.Errorf("time %d: %d %v", i, status, err)
		}
	}
	if status, _ := c.must("GET", c.Ready.External, "/v3/apps/a1", "A", ""); status != 500 {
		t.Errorf("the other token: %d", status)
	}
	c.Change(func(s *State) { s.Answers = []Answer{{Path: "/check_token", How: Huge, Body: "{}"}} })
	if _, body := c.must("POST", c.Ready.UAA, "/check_token", "", "token=A"); len(body) < blanks {
		t.Errorf("%d bytes", len(body))
	}
}

func TestControl(t *testing.T) {
	c := start(t, State{})
	state, _ := json.Marshal(testState())
	put := func(path, body string) int {
		status, _ := c.must("PUT", c.Ready.Control, path, "", body)
		return status
	}
	if put("/state", string(state)) != 200 {
		t.Fatal("the state was not taken")
	}
	for _, bad := range []string{
		"", "{", `{"colour":1}`, `{} {}`, `{"tokens":[{"token":"x","user":"none"}]}`, `{"answers":[{"how":"well"}]}`, `{"answers":[{"server":"x"}]}`, `{"answers":[{"status":1}]}`,
	} {
		if put("/state", bad) != 400 {
			t.Errorf("%q was taken", bad)
		}
	}
	if put("/answers", `[{"path":"/v3","status":503}]`) != 200 || put("/answers", `[{"how":"well"}]`) != 400 {
		t.Error("answers")
	}
	if _, body := c.must("GET", c.Ready.Control, "/state", "", ""); !strings.Contains(body, `"status":503`) || !strings.Contains(body, `"alice"`) {
		t.Error(body)
	}
	_, body := c.must("POST", c.Ready.Control, "/tokens", "", `{"user":"alice","kind":"opaque","seconds":60}`)
	var issued struct{ Token string }
	if err := json.Unmarshal([]byte(body), &issued); err != nil || issued.Token == "" {
		t.Fatal(err, body)
	}
	if status, _ := c.must("POST", c.Ready.Control, "/keys", "", ""); status != 200 {
		t.Error("keys", status)
	}
	c.must("GET", c.Ready.CC, "/internal/v4/log_access/a1?x=1", issued.Token, "")
	c.must("POST", c.Ready.UAA, "/check_token", "", "token="+url.QueryEscape("Bearer "+issued.Token))
	_, body = c.must("GET", c.Ready.Control, "/requests", "", "")
	var got []Request
	if err := json.Unmarshal([]byte(body), &got); err != nil || len(got) != 2 {
		t.Fatal(err, body)
	}
	if r := got[0]; r.Server != "cc" || r.Method != http.MethodGet || r.Path != "/internal/v4/log_access/a1?x=1" || r.Authorization != "bearer "+issued.Token {
		t.Errorf("%+v", r)
	}
	if r := got[1]; r.Server != "uaa" || r.Form.Get("token") != "Bearer "+issued.Token || !strings.HasPrefix(r.Authorization, "Basic ") || r.ContentType != "application/x-www-form-urlencoded" {
		t.Errorf("%+v", r)
	}
	c.must("DELETE", c.Ready.Control, "/requests", "", "")
	if n := len(c.Requests()); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	f := &Fake{requests: make([]Request, maxRequests)}
	f.noted("uaa", http.NotFoundHandler()).ServeHTTP(discard{}, &http.Request{Method: http.MethodGet, RequestURI: "/last", URL: &url.URL{Path: "/last"}, Body: http.NoBody})
	if r := f.Requests(); len(r) != maxRequests || r[maxRequests-1].Path != "/last" {
		t.Errorf("%d requests", len(r))
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func TestStartSaysWhatIsWrong(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Options{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
	if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Control: "nowhere:x"}); err == nil || !strings.Contains(fmt.Sprint(err), "control") {
		t.Errorf("%v", err)
	}
}
