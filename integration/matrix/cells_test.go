package matrix

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/fakecf"
)

// cell is one request to make.
type cell struct {
	path  path
	app   string // a name of ids; empty where the path takes none
	role  string // of the user
	user  string // who it is; every cell whose answers differ has its own
	kind  string // of the token
	token string
	how   string // it is sent
	fault fault
}

func (c cell) String() string {
	return fmt.Sprintf("%s, app %q, as %s, token %s, sent %s, fault %s", c.path.name, c.app, c.role, c.kind, c.how, c.fault)
}

// rule is who may use a path, and how others are refused.
type rule int

const (
	firehose    rule = iota // old framing
	newFirehose             // batches, and the views
	app
	newApp
	read
	cacheRead
	meta
	query
	byName
	public
	nothing // is there
	refused // whoever asks, by its method
	moved
)

// path is one request, without a token.
type path struct {
	name, method string
	rule         rule
	// target has %s for the app.
	target string
	socket string // "", old or batch
	// in is the status of who is let in.
	in     int
	bodily bool // an answer to who is let in shows logs
}

var paths = []path{
	{"old Firehose", "GET", firehose, "/firehose/matrix-old", "old", 101, true},
	{"old Firehose, no WebSocket", "GET", firehose, "/firehose/matrix", "", 400, false},
	{"new Firehose", "GET", newFirehose, "/firehose/matrix-new", "batch", 101, true},
	{"sources", "GET", newFirehose, "/v2/sources", "", 200, true},
	{"subscriptions", "GET", newFirehose, "/v2/subscriptions", "", 200, false},
	{"old tail", "GET", app, "/apps/%s/stream", "old", 101, true},
	{"old tail, no WebSocket", "GET", app, "/apps/%s/stream", "", 400, false},
	{"new tail", "GET", newApp, "/apps/%s/stream?recent=10", "batch", 101, true},
	{"recentlogs", "GET", app, "/apps/%s/recentlogs?limit=5", "", 200, true},
	{"POST recentlogs", "POST", app, "/apps/%s/recentlogs?limit=5", "", 200, true},
	{"containermetrics", "GET", app, "/apps/%s/containermetrics", "", 200, true},
	{"read", "GET", read, "/v2/read?log&source_id=%s", "", 200, true},
	{"read own and", "GET", read, "/v2/read?log&source_id=" + own + "&source_id=%s", "", 200, true},
	{"read all", "GET", read, "/v2/read?log", "", 200, true},
	{"POST read", "POST", read, "/v2/read?log&source_id=%s", "", 405, false},
	{"cache read", "GET", cacheRead, "/api/v1/read/%s?descending=true&limit=5", "", 200, true},
	{"HEAD cache read", "HEAD", cacheRead, "/api/v1/read/%s?descending=true&limit=5", "", 200, false},
	{"meta", "GET", meta, "/api/v1/meta", "", 200, true},
	{"query", "GET", query, "/api/v1/query?query=cpu%%7Bsource_id=%%22%s%%22%%7D", "", 200, true},
	{"query_range", "GET", query, "/api/v1/query_range?query=cpu%%7Bsource_id=%%22%s%%22%%7D&step=60&" + span, "", 200, false},
	{"query by name", "GET", byName, "/api/v1/query?query=cpu%%7Bsource_id=%%22%s%%22%%7D", "", 200, true},
}

const span = "start=1700000000&end=1700000060" // long ago

// others let everybody in, or nobody.
var others = []path{
	{"info", "GET", public, "/api/v1/info", "", 200, false},
	{"discovery", "GET", public, "/", "", 200, false},
	{"health", "GET", public, "/health", "", 200, false},
	{"ready", "GET", public, "/ready", "", 200, false},
	{"POST cache read", "POST", refused, "/api/v1/read/" + own, "", 405, false},
	{"POST query", "POST", refused, "/api/v1/query", "", 405, false},
	{"two slashes", "GET", moved, "//firehose/matrix-old", "old", 301, false},
	{"dots", "GET", moved, "/apps/" + own + "/../" + foreign + "/stream", "old", 301, false},
	{"no subscription", "GET", nothing, "/firehose/", "old", 404, false},
	{"slash after it", "GET", nothing, "/firehose/matrix-old/", "old", 404, false},
	{"slash in it", "GET", nothing, "/firehose/matrix%2Fold", "old", 404, false},
	{"slash after stream", "GET", nothing, "/apps/" + own + "/stream/", "old", 404, false},
	{"capitals", "GET", nothing, "/Firehose/matrix-old", "old", 404, false},
	{"slash after read", "GET", nothing, "/v2/read/", "", 404, false},
	{"POST sources", "POST", nothing, "/v2/sources", "", 404, false},
	{"Log Cache's unknown", "GET", nothing, "/api/v1/shard_group/" + own, "", 404, false},
	{"tail of 2016", "GET", nothing, "/tail/?app=" + own, "old", 404, false},
	{"dump of 2016", "GET", nothing, "/dump/?app=" + own, "", 404, false},
	{"recent of 2016", "GET", nothing, "/recent?app=" + own, "", 404, false},
	{"a Doppler's history", "GET", nothing, "/v1/history/" + own, "", 404, false},
	{"the admin's metrics", "GET", nothing, "/metrics", "", 404, false},
	{"the admin's sources", "GET", nothing, "/sources", "", 404, false},
}

// streams tells whether who is let in gets a stream.
func (p path) streams() bool {
	return p.in == http.StatusSwitchingProtocols || p.rule == read && p.in == http.StatusOK
}

// takesApp tells whether a path is about an app.
func (p path) takesApp() bool { return strings.Contains(p.target, "%s") }

// ids of apps and service instances.
const (
	own     = "6f1b0b1e-5c1d-4a53-9d37-2f9b6f1f8a01"
	foreign = "0c2f9d1a-7b3e-4f52-8a6d-5e4b3c2d1f02"
)

var ids = map[string]string{
	"own": own, "foreign": foreign, "unknown": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "malformed": "not-a-guid",
	"own service": "11111111-2222-4333-8444-555555555501", "foreign service": "11111111-2222-4333-8444-555555555502",
	"traversal": own + "/../" + foreign, "back": foreign + "/../" + own,
}

// names of apps.
var names = map[string]string{"own": "own-name", "foreign": "foreign-name"}

// speak are the sources that log all the time.
var speak = []string{"own", "foreign", "malformed", "own service", "foreign service"}

// roles are users, as the fake has them.
var roles = map[string]fakecf.User{
	"admin":          {Scopes: []string{"doppler.firehose", "cloud_controller.admin"}},
	"developer":      {Scopes: []string{"cloud_controller.read"}, Apps: []string{own}, ServiceInstances: []string{ids["own service"]}},
	"stranger":       {Scopes: []string{"cloud_controller.read"}},
	"nozzle":         {Scopes: []string{"doppler.firehose"}},
	"logs admin":     {Scopes: []string{"logs.admin"}},
	"nobody special": {Scopes: []string{"openid"}},
}

// kind is a kind of token, and what UAA's keys, check_token and Cloud Controller
// say of it.
type kind struct {
	local, check answer
	known        bool     // to Cloud Controller
	scopes       []string // instead of the user's
	text         string   // the whole header, of tokens that are none
	none         bool
}

var kinds = tokenKinds()

func tokenKinds() map[string]kind {
	openid := []string{"openid"}
	all := map[string]kind{
		"jwt": {local: yes, check: yes, known: true}, "opaque": {check: yes, known: true},
		"opaque expired": {check: bad},
		"none":           {none: true}, "empty": {none: true}, // a header of nothing is none
		"bearer only": {check: bad, text: "bearer"}, "garbage": {check: bad, text: "bearer d41d8cd98f00b204"},
		"ey.ey.ey": {local: bad, check: bad, text: "bearer ey.ey.ey"}, "basic": {check: bad, text: "Basic bm9yYTpzZWNyZXQ="},
		"oversize": {check: bad, text: "bearer " + strings.Repeat("x", 20<<10)},
		"a list":   {check: bad, text: "bearer a, bearer b"}, "escapes": {check: bad, text: "bearer %00%0a../../x?y=z&token=w#"},
	}
	for name := range fakecf.Forgeries {
		k := kind{local: bad, check: bad}
		switch name {
		case fakecf.Sound:
			k.local = yes // UAA is not asked about each (operators.md)
		case "scope", "id":
			k.local, k.scopes = yes, openid
		case "revocable":
			k.local = unsaid
		}
		all[name] = k
	}
	return all
}

// hows are ways to send a token.
var hows = map[string]func(r *http.Request, token string){
	"bearer": func(r *http.Request, t string) { r.Header.Set("Authorization", "bearer "+t) },
	"Bearer": func(r *http.Request, t string) { r.Header.Set("Authorization", "Bearer "+t) },
	"bare":   func(r *http.Request, t string) { r.Header.Set("Authorization", t) },
	"spare bits": func(r *http.Request, t string) { // the same bytes, to who decodes base64 carelessly
		r.Header.Set("Authorization", "bearer "+t[:len(t)-1]+string(t[len(t)-1]+1))
	},
	"as basic": func(r *http.Request, t string) { r.SetBasicAuth("bearer", t) },
	"cookie":   func(r *http.Request, t string) { cookie(r, "authorization", "bearer "+t) },
	"cookie, own origin": func(r *http.Request, t string) {
		cookie(r, "authorization", "bearer "+t)
		r.Header.Set("Origin", "http://"+r.Host)
	},
	"cookie, foreign origin": func(r *http.Request, t string) {
		cookie(r, "authorization", "bearer "+t)
		r.Header.Set("Origin", "https://evil.example.com")
	},
	"bearer, foreign origin": func(r *http.Request, t string) {
		r.Header.Set("Authorization", "bearer "+t)
		r.Header.Set("Origin", "https://evil.example.com")
	},
	"cookie Authorization": func(r *http.Request, t string) { cookie(r, "Authorization", "bearer "+t) },
	"cookie, line feed":    func(r *http.Request, t string) { cookie(r, "authorization", "bearer "+t+"\n") },
	"cookie, line feed in": func(r *http.Request, t string) { cookie(r, "authorization", "bearer "+t[:9]+"\n"+t[9:]) },
	"cookie badly escaped": func(r *http.Request, t string) { r.Header.Set("Cookie", "authorization=%zz"+t) },
	"query":                func(r *http.Request, t string) { parameter(r, "access_token="+t) },
	"query authorization":  func(r *http.Request, t string) { parameter(r, "authorization=bearer+"+t) },
	"cookie, header bad": func(r *http.Request, t string) {
		cookie(r, "authorization", "bearer "+t)
		r.Header.Set("Authorization", "bearer x")
	},
	"header, cookie bad": func(r *http.Request, t string) {
		cookie(r, "authorization", "x")
		r.Header.Set("Authorization", "bearer "+t)
	},
	"second of two headers": func(r *http.Request, t string) { r.Header["Authorization"] = []string{"bearer x", "bearer " + t} },
	"forwarded":             func(r *http.Request, t string) { r.Header.Set("X-Forwarded-Authorization", "bearer "+t) },
	"proxy":                 func(r *http.Request, t string) { r.Header.Set("Proxy-Authorization", "bearer "+t) },
}

func cookie(r *http.Request, name, value string) {
	r.Header.Set("Cookie", name+"="+url.QueryEscape(value))
}

func parameter(r *http.Request, text string) {
	if r.URL.RawQuery != "" {
		text = r.URL.RawQuery + "&" + text
	}
	r.URL.RawQuery = text
}

// fault is an answer that a part of the platform gives to a cell's token.
type fault struct {
	where string // a path there; "" for none
	fakecf.Answer
	// keys tells that there are no keys to verify tokens with.
	keys bool
}

func (f fault) String() string {
	text := "none"
	if f.where != "" {
		text = fmt.Sprint(f.where, " ", f.Status, f.How)
	}
	if f.keys {
		text += ", no keys"
	}
	return text
}

// parts are what may be broken, by path and server.
var parts = map[string]string{
	"/check_token": "uaa", "/internal/v4/log_access/": "cc", "/v3/apps": "external", "/v3/apps/": "external", "/v3/service_instances": "external",
}

// faults are all the ways in which parts are broken.
func faults() (all []fault) {
	for _, where := range slices.Sorted(maps.Keys(parts)) {
		for _, status := range []int{204, 302, 400, 401, 403, 404, 429, 500, 503} {
			all = append(all, fault{where: where, Answer: fakecf.Answer{Status: status, Body: `{"error":"as asked for"}`}})
		}
		for _, how := range []fakecf.How{fakecf.Hang, fakecf.Stall, fakecf.Drop, fakecf.Garbage, fakecf.Truncate} {
			all = append(all, fault{where: where, Answer: fakecf.Answer{How: how, Body: `{"scope":["doppler.firehose"]}`}})
		}
	}
	for _, body := range []string{"", "<html>", "[]", `{"scope":"doppler.firehose"}`, `{"scope":["doppler.firehose"]`} {
		all = append(all, fault{where: "/check_token", Answer: fakecf.Answer{Status: 200, Body: body}})
	}
	for _, status := range []int{400, 401} {
		all = append(all, fault{where: "/check_token", Answer: fakecf.Answer{Status: status, Body: "<html>"}})
	}
	return all
}

// request makes the request of a cell.
func (c cell) request(base string) (*http.Request, error) {
	target := c.path.target
	if c.path.takesApp() {
		id := ids[c.app]
		if c.path.rule == byName {
			id = names[c.app]
		}
		target = fmt.Sprintf(target, url.PathEscape(id))
	}
	r, err := http.NewRequest(c.path.method, base+target, nil)
	if err != nil {
		return nil, err
	}
	if c.path.socket != "" {
		r.Header = http.Header{
			"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
	}
	if c.path.socket == "batch" {
		r.Header.Set("Sec-WebSocket-Protocol", stream.Subprotocol)
	}
	switch k := kinds[c.kind]; {
	case c.kind == "empty":
		r.Header.Set("Authorization", "")
	case k.text != "":
		r.Header.Set("Authorization", k.text)
	case !k.none:
		hows[c.how](r, c.token)
	}
	return r, nil
}
