package auth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

func TestZeroDecisionRefuses(t *testing.T) {
	w := httptest.NewRecorder()
	Decision{}.Write(w)
	if (Decision{}).Allowed() || w.Code != 500 {
		t.Errorf("status %d", w.Code)
	}
}

func TestGUIDShape(t *testing.T) {
	for id, want := range map[string]bool{
		app: true, strings.ToUpper(app): true, "": false, "doppler": false, app + "\n": false, " " + app: false,
		strings.ReplaceAll(app, "-", ""): false, app[:35] + "g": false, app + "0": false, "{" + app + "}": false,
	} {
		if isGUID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

func TestTokenOfACookieSetHere(t *testing.T) {
	w := httptest.NewRecorder()
	SetCookie("example.com").ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/set-cookie?CookieName=authorization&CookieValue=bearer%20a.b.c", nil))
	line, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", line) // as a browser gives it back, quotes and all
	if token := Token(r); token != "bearer a.b.c" {
		t.Errorf("%q from %q", token, line)
	}
}

func TestCookieWithControlCharactersIsNoToken(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = time.Minute
	a := newAuth(t, cfg)
	o.set(uaaOf(drop), says(200, ""))
	good := token(t, nil)
	if d := a.App(t.Context(), request("bearer "+good), app); !d.Allowed() {
		t.Fatalf("%+v", d)
	}
	asked := len(o.asked())
	for _, cookie := range []string{"bearer%20a%0d%0aX-Admin:%201", "bearer%20" + good + "%0a", "bearer%20" + good[:9] + "%0a" + good[9:]} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Cookie", "authorization="+cookie)
		for _, d := range []Decision{a.App(t.Context(), r, app), a.Firehose(t.Context(), r)} {
			if d.Reason != NoToken || d.Status != 401 || len(o.asked()) != asked {
				t.Errorf("%q: %+v, asked %q", cookie, d, o.asked())
			}
		}
	}
}

func TestSetCookieRefusesNamesNoCookieHas(t *testing.T) {
	for _, query := range []string{"", "CookieName=a", "CookieValue=a", "CookieName=a%20b&CookieValue=c", "CookieName=a%0d%0ab&CookieValue=c"} {
		w := httptest.NewRecorder()
		SetCookie("example.com").ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/set-cookie?"+query, nil))
		if w.Code != 400 || w.Header().Get("Set-Cookie") != "" || w.Header().Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("%q: %d %v", query, w.Code, w.Header())
		}
	}
}

func TestGatewayReadsNoCookie(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	r := httptest.NewRequest(http.MethodGet, "/v2/read?log", nil)
	r.Header.Set("Cookie", "authorization=bearer%20tok")
	if d := a.Read(t.Context(), r, nil); d.Reason != NoToken || len(o.asked()) != 0 {
		t.Errorf("read: %+v", d)
	}
	if d := a.LogCache(t.Context(), r, app); d.Reason != NoToken || len(o.asked()) != 0 {
		t.Errorf("Log Cache: %+v", d)
	}
}

func TestBare(t *testing.T) {
	for given, want := range map[string]string{
		"bearer a": "a", "BEARER  a ": "a", "Bearer a b": "a b", "a": "a", "": "", "bearer": "", "basic a": "basic a",
	} {
		if got := bare(given); got != want {
			t.Errorf("%q gives %q, want %q", given, got, want)
		}
	}
}

func TestInAnyCase(t *testing.T) {
	for given, want := range map[string]string{
		"bearer a": "bearer a", "BEARER a": "bearer a", "Bearer  a b": "bearer  a b", "a": "a", "": "", "Bearer": "Bearer",
		"Bearera b": "Bearera b", "Basic a": "Basic a", "bEaReR ": "bearer ",
	} {
		r := request(given)
		if got := InAnyCase(r).Header.Get("Authorization"); got != want || r.Header.Get("Authorization") != given {
			t.Errorf("%q gives %q, want %q", given, got, want)
		}
	}
}

// TestIDsStayIDs asks about ids that would be another path.
func TestIDsStayIDs(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	user := says(200, scope("cloud_controller.read"))
	for id, want := range map[string]string{
		"../../v3/apps/x?y#z": "/internal/v4/log_access/..%2F..%2Fv3%2Fapps%2Fx%3Fy%23z", "..": "", ".": "", "": "",
		strings.Repeat("x", 257): "",
	} {
		o.set(user, says(200, ""))
		d := a.Read(t.Context(), request("bearer tok"), []string{id})
		asked := ccCalls(o.asked())
		if d.Reason != InvalidID || want == "" && len(asked) != 0 || want != "" && !slices.Equal(asked, []string{want}) {
			t.Errorf("%.40q: %v, asked %q", id, d.Reason, asked)
		}
	}
}

func TestSourcesAreBounded(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	o.set(says(200, scope("cloud_controller.read")), says(200, ""))
	many := make([]string, MaxSources+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	_, read := a.LogCacheQuery(t.Context(), request("bearer tok"), many)
	if d := a.Read(t.Context(), request("bearer tok"), many); d.Reason != TooMany || read != nil || len(ccCalls(o.asked())) != 0 {
		t.Errorf("%v, reads %v", d.Reason, read)
	}
	same := []string{app, app, app}
	if d := a.Read(t.Context(), request("bearer tok"), same); !d.Allowed() || len(ccCalls(o.asked())) != 1 {
		t.Errorf("%v, asked %q", d.Reason, o.asked())
	}
}

// listing serves pages of a list under their paths.
func listing(pages map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := pages[r.RequestURI]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(body))
	}
}

func page(next string, guids ...string) string {
	p := map[string]any{"pagination": map[string]any{"total_results": 1, "next": nil}, "included": map[string]any{"x": []int{1}}}
	if next != "" {
		p["pagination"] = map[string]any{"next": map[string]string{"href": next}}
	}
	resources := []map[string]any{}
	for _, g := range guids {
		resources = append(resources, map[string]any{"guid": g, "name": "name of " + g, "metadata": map[string]any{"labels": []int{1, 2}}})
	}
	p["resources"] = resources
	data, _ := json.Marshal(p)
	return string(data)
}

func TestMetaFollowsPagesButNotHosts(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	o.set(says(200, scope("cloud_controller.read")), listing(map[string]string{
		"/v3/apps?per_page=5000":                     page("https://api.elsewhere.example/v3/apps?page=2&per_page=5000", "a1", "a2"),
		"/v3/apps?page=2&per_page=5000":              page("", "a3"),
		"/v3/service_instances?per_page=5000":        page("/v3/service_instances?page=2&per_page=5000", "s1"),
		"/v3/service_instances?page=2&per_page=5000": page("", "s2"),
	}))
	d, seen := a.LogCacheMeta(t.Context(), request("bearer tok"))
	for _, id := range []string{"a1", "a2", "a3", "s1", "s2"} {
		if !d.Allowed() || !seen.Has(id) {
			t.Errorf("%+v: %s is not seen", d, id)
		}
	}
	if seen.Has("doppler") || len(ccCalls(o.asked())) != 4 {
		t.Errorf("asked %q", o.asked())
	}
}

func TestHalfAListIsAnOutage(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	whole := page("", "a1")
	for name, second := range map[string]string{
		"truncated": whole[:len(whole)-2], "no resources": `{"pagination":{"next":null}}`, "no pagination": `{"resources":[]}`,
		"not an object": "[]", "empty": "", "text": "yes", "resources null": `{"pagination":{"next":null},"resources":null}`,
		"next elsewhere": page("https://h/v2/apps", "a1"), "next is no URL": page("%zz", "a1"), "next of no list": page("/v3/nothing?x", "a1"),
		"round and round": page("/v3/service_instances?per_page=5000", "a1"),
	} {
		o.set(says(200, scope("cloud_controller.read")), listing(map[string]string{
			"/v3/apps?per_page=5000": page("", "a1"), "/v3/service_instances?per_page=5000": second,
		}))
		if d, seen := a.LogCacheMeta(t.Context(), request("bearer tok")); d.Reason != Outage || seen.Has("a1") {
			t.Errorf("%s: %+v, sees %v", name, d, seen)
		}
		if n := len(o.asked()); n > maxPages+2 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func TestQueryByName(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	named := map[string]string{
		"/v3/apps?names=shop%2Cdoppler&per_page=5000": strings.NewReplacer("name of a1", "shop", "name of a2", "shop").Replace(page("", "a1", "a2", "a3")),
		"/v3/apps/a1":                       "{}",
		"/v3/service_instances/" + other:    "{}",
		"/v3/apps?names=shop&per_page=5000": strings.NewReplacer("name of a1", "shop", "name of a2", "shop").Replace(page("", "a1", "a2")),
	}
	for _, test := range []struct {
		name, scope string
		ids         []string
		reason      Reason
		want        map[string][]string
	}{
		{"admin", "doppler.firehose", []string{"shop", "doppler"}, Allowed, map[string][]string{"shop": {"shop", "a1", "a2"}, "doppler": {"doppler"}}},
		{"user, one of the apps", "x", []string{"shop"}, Allowed, map[string][]string{"shop": {"a1"}}},
		{"user, service instance", "x", []string{other}, Allowed, map[string][]string{other: {other}}},
		{"user, also what is not his", "x", []string{"shop", "doppler"}, NotFound, nil},
		{"admin, no names known", "logs.admin", []string{"nothing"}, Allowed, map[string][]string{"nothing": {"nothing"}}},
		{"a comma would be two names", "logs.admin", []string{"shop,doppler"}, Allowed, map[string][]string{"shop,doppler": {"shop,doppler"}}},
		{"nothing asked for", "x", nil, Allowed, map[string][]string{}},
	} {
		o.set(says(200, scope(test.scope)), listing(named))
		d, read := a.LogCacheQuery(t.Context(), request("bearer tok"), test.ids)
		if d.Reason != test.reason || fmt.Sprint(read) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v reads %v, want %v", test.name, d.Reason, read, test.want)
		}
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	_, good := newOutside(t)
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	bad := Config{UAAAddr: "http://uaa", CCAddr: "cc:9023", CCExternalAddr: "ftp://cc", CacheFor: time.Hour}
	err := bad.Validate()
	for _, flag := range []string{
		"uaa-addr", "uaa-client ", "uaa-client-secret", "cc-addr", "cc-tls-cert", "cc-tls-key", "cc-tls-ca",
		"cc-server-name", "cc-external-addr", "access-timeout", "access-cache ", "access-cache-entries",
	} {
		if err == nil || !strings.Contains(err.Error(), "--"+flag) {
			t.Errorf("--%s is not named in %v", flag, err)
		}
	}
	for name, change := range map[string]func(*Config){
		"uaa-ca":         func(c *Config) { c.UAACA = "nowhere.crt" },
		"cc-external-ca": func(c *Config) { c.CCExternalCA = "nowhere.crt" },
		"cc-tls":         func(c *Config) { c.CCTLS = mtls.Files{Cert: "nowhere.crt", Key: "nowhere.crt", CA: "nowhere.crt"} },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg, nil); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "nowhere.crt") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(bad, nil); err == nil {
		t.Error("faults were accepted")
	}
}

// FuzzClaimedExpiry gives it any token: no answer may lie outside the times it
// promises.
func FuzzClaimedExpiry(f *testing.F) {
	for _, seed := range []string{jwt(1), jwt(1 << 60), jwt(-1), "a.b.c", "..", "e30.bnVsbA.x", "e30.eyJleHAiOiIxIn0.x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if at, ok := claimedExpiry(token); ok && (at.Unix() < 0 || at.Unix() > 1e12) {
			t.Errorf("%v", at)
		}
	})
}

// FuzzPage gives Cloud Controller any answer: it never leads off /v3/.
func FuzzPage(f *testing.F) {
	for _, seed := range []string{page("", "a"), page("https://h/v3/apps?page=2", "a", "b"), page("/v2", "a"), "[]", "{", `{"resources":[1]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := httptest.NewRecorder()
		_, _ = w.WriteString(body)
		next, err := readPage(w.Result(), maxListBytes, func(r resource) {
			if r.GUID == "" {
				t.Error("an element without an id")
			}
		})
		if err == nil && next != "" && !strings.HasPrefix(next, "/v3/") {
			t.Errorf("leads to %q", next)
		}
	})
}

// TestWithoutPublicAPI has the internal API asked about apps, and names and lists
// be for admins.
func TestWithoutPublicAPI(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CCExternalAddr = ""
	o.set(says(200, scope("cloud_controller.read")), says(200, "{}"))
	a := newAuth(t, cfg)
	if d := a.LogCache(t.Context(), request("bearer t"), app); !d.Allowed() || count(o.asked(), "/internal/v4/log_access/"+app) != 1 {
		t.Errorf("%+v, asked %q", d, o.asked())
	}
	if d, _ := a.LogCacheMeta(t.Context(), request("bearer t")); d.Reason != Outage {
		t.Errorf("a list: %+v", d)
	}
	o.set(says(200, scope("cloud_controller.read")), says(404, ""))
	if d := a.LogCache(t.Context(), request("bearer t"), other); d.Reason != NotFound {
		t.Errorf("another's app: %+v", d)
	}
}

func TestValidateOneWayIsEnough(t *testing.T) {
	with := func(change func(*Config)) *Config {
		c := DefaultConfig()
		change(&c)
		return &c
	}
	provider := OIDCConfig{Issuer: "https://id.example.com/realm", Audiences: []string{"a"}, UserClaim: "sub", SourcesClaim: "sources"}
	for _, c := range []struct {
		name   string
		cfg    *Config
		faults string // flags, with spaces between
	}{
		{"nothing", with(func(*Config) {}), "uaa-addr cc-addr uaa-client-secret cc-tls-cert"},
		{"disabled", with(func(c *Config) { c.Disabled = true }), ""},
		{"static", with(func(c *Config) { c.StaticTokens = "f" }), ""},
		{"a provider", with(func(c *Config) { c.OIDC = provider }), ""},
		{"half of the platform", with(func(c *Config) { c.StaticTokens = "f"; c.UAAAddr = "https://uaa" }), "cc-addr uaa-client-secret"},
		{"no TLS", with(func(c *Config) { c.OIDC = provider; c.OIDC.Issuer = "http://x" }), "oidc-issuer"},
		{"no audience", with(func(c *Config) { c.OIDC = provider; c.OIDC.Audiences = nil }), "oidc-audience"},
		{"no user", with(func(c *Config) { c.OIDC = provider; c.OIDC.UserClaim = "" }), "oidc-user-claim"},
		{"nothing granted", with(func(c *Config) { c.OIDC = provider; c.OIDC.SourcesClaim = "" }), "oidc-grant"},
		{"a bad grant", with(func(c *Config) { c.OIDC = provider; c.OIDC.Grants = []string{"x"} }), "oidc-grant"},
		{"a grant of nothing", with(func(c *Config) { c.OIDC = provider; c.OIDC.Grants = []string{"x="} }), "oidc-grant"},
		{"no provider", with(func(c *Config) {
			c.StaticTokens, c.OIDC.Grants, c.OIDC.CA, c.OIDC.SourcesClaim = "f", []string{"x=y"}, "f", "x"
		}), "oidc-grant oidc-ca oidc-sources-claim"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.cfg.Validate()
			if (err == nil) != (c.faults == "") {
				t.Fatalf("%v, want faults of %q", err, c.faults)
			}
			for flag := range strings.FieldsSeq(c.faults) {
				if !strings.Contains(err.Error(), flag) {
					t.Errorf("%v says nothing of %s", err, flag)
				}
			}
		})
	}
}
