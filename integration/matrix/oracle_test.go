package matrix

import (
	"net/http"
	"slices"
	"strings"

	"github.com/a1ea6966/loggregator/integration/fakecf"
)

// answer is what somebody says of a token, or about whether it may read.
type answer int

const (
	unsaid    answer = iota // nobody was asked
	yes                     //
	bad                     // the token is not valid
	no                      // it is, and may not
	unclear                 // no answer
	ownClient               // UAA does not know the Traffic Controller
)

// verdict is what has to come of a cell.
type verdict struct {
	in       bool
	statuses []int
	// challenge is how WWW-Authenticate has to begin; empty for no such header.
	challenge string
	// body, if it is set, has to be the answer's.
	body *string
	// shows are the sources that may be in the answer, and wants those of which
	// one at least has to be.
	shows, wants []string
}

func out(challenge string, statuses ...int) verdict {
	return verdict{statuses: statuses, challenge: challenge}
}

// sight is what becomes of a token on its way.
type sight int

const (
	right sight = iota
	none
	wrong  // it is another
	onlyCC // UAA is asked about something else
)

// sees tells how a path takes a token that was sent in a way (protocol 03 and
// 04): cookies are for the old paths, and for new clients there.
func (c cell) sees() sight {
	cookies := c.path.rule <= newApp
	switch c.how {
	case "Bearer": // the old Firehose takes "bearer " away and nothing else, and so does /v2/read for UAA
		switch c.path.rule {
		case firehose:
			return wrong
		case read:
			return onlyCC
		}
	case "as basic", "spare bits", "second of two headers", "cookie, header bad":
		return wrong
	case "cookie", "cookie, own origin":
		if !cookies {
			return none
		}
	case "cookie, line feed", "cookie, line feed in": // is no token: 401 (moving.md)
		if cookies {
			return wrong
		}
		return none
	case "cookie Authorization", "cookie badly escaped", "query", "query authorization", "forwarded", "proxy":
		return none
	}
	if kinds[c.kind].none {
		return none
	}
	return right
}

// identity is what can be known of a token, and its scopes.
func (c cell) identity() (answer, []string) {
	k := kinds[c.kind]
	said, check := c.local(), k.check
	if s := c.sees(); s == wrong || s == onlyCC {
		said, check = unsaid, bad
	}
	if said == unsaid {
		if said = check; c.fault.where == "/check_token" {
			said = c.fault.says()
		}
	}
	if k.scopes != nil {
		return said, k.scopes
	}
	return said, roles[c.role].Scopes
}

// local is what UAA's keys say.
func (c cell) local() answer {
	if c.fault.keys || c.sees() != right {
		return unsaid
	}
	return kinds[c.kind].local
}

// cc is what Cloud Controller answers about something at a path, when visible is
// what there is to be seen for the user.
func (c cell) cc(asked string, visible bool) answer {
	user := roles[c.role]
	switch {
	case parts[c.fault.where] != "uaa" && c.fault.where != "" && strings.HasPrefix(asked, c.fault.where):
		return c.fault.says()
	case !kinds[c.kind].known || c.sees() == wrong:
		return bad
	case !slices.Contains(user.Scopes, "cloud_controller.read") && !slices.Contains(user.Scopes, "cloud_controller.admin"):
		return no
	case !visible:
		return no
	}
	return yes
}

// says is what a broken answer says to who believes nothing but clear words.
func (f fault) says() answer {
	if f.How != fakecf.Plain {
		return unclear
	}
	if f.where == "/check_token" {
		switch isJSON := strings.HasSuffix(f.Body, "}"); {
		case f.Status == http.StatusBadRequest && isJSON:
			return bad
		case f.Status == http.StatusUnauthorized && isJSON:
			return ownClient
		}
		return unclear
	}
	switch f.Status {
	case http.StatusUnauthorized:
		return bad
	case http.StatusForbidden, http.StatusNotFound:
		return no
	}
	return unclear
}

// owns tells whether Cloud Controller shows an app or service instance to the
// user.
func (c cell) owns(name string) bool {
	u := roles[c.role]
	if slices.Contains(u.Scopes, "cloud_controller.admin") {
		return slices.Contains([]string{"own", "foreign", "own service", "foreign service"}, name)
	}
	return slices.Contains(u.Apps, ids[name]) || slices.Contains(u.ServiceInstances, ids[name])
}

func (c cell) logAccess(name string) answer {
	return c.cc("/internal/v4/log_access/x", c.owns(name) && !strings.HasSuffix(name, "service"))
}

func (c cell) seesApp(name string) answer {
	return c.cc("/v3/apps/x", c.owns(name) && !strings.HasSuffix(name, "service"))
}

func (c cell) seesService(name string) answer {
	return c.cc("/v3/service_instances/x", c.owns(name) && strings.HasSuffix(name, "service"))
}

func isAdmin(scopes []string) bool {
	return slices.Contains(scopes, "doppler.firehose") || slices.Contains(scopes, "logs.admin")
}

// expected is what has to come of a cell by what is documented: protocol 03, 04
// and 05 for old clients, operators.md for new ones.
func expected(c cell) verdict {
	if c.how == "cookie, foreign origin" && !kinds[c.kind].none && kinds[c.kind].text == "" {
		return out("", http.StatusForbidden)
	}
	in := verdict{in: true, statuses: []int{c.path.in}}
	switch c.path.rule {
	case public, nothing, refused, moved:
		return in
	case firehose:
		return c.mayFirehose(in)
	case newFirehose:
		return c.mayNewFirehose(in)
	case app:
		return c.mayApp(in)
	case newApp:
		return c.mayNewApp(in)
	case read:
		return c.mayRead(in)
	}
	return c.mayCache(in)
}

func (v verdict) all() verdict {
	v.shows, v.wants = speak, speak
	return v
}

func (v verdict) only(c cell) verdict {
	v.shows = []string{c.app}
	if slices.Contains(speak, c.app) {
		v.wants = v.shows
	}
	return v
}

// Whatever is wrong is a 401 that asks for Basic.
func (c cell) mayFirehose(in verdict) verdict {
	said, scopes := c.identity()
	if c.sees() == none || said != yes || !slices.Contains(scopes, "doppler.firehose") {
		return out("Basic", http.StatusUnauthorized)
	}
	return in.all()
}

func (c cell) mayNewFirehose(in verdict) verdict {
	said, scopes := c.identity()
	switch {
	case c.sees() == none, said == bad:
		return out("Bearer", http.StatusUnauthorized)
	case said != yes:
		return out("", http.StatusServiceUnavailable)
	case c.kind == "id": // which is none for this, and has no scope
		return out("Bearer", http.StatusUnauthorized, http.StatusForbidden)
	case !slices.Contains(scopes, "doppler.firehose"):
		return out("Bearer", http.StatusForbidden)
	}
	return in.all()
}

// An id that is none is a 401 without a word, one with a slash a 404; else Cloud
// Controller decides.
func (c cell) mayApp(in verdict) verdict {
	switch {
	case strings.Contains(ids[c.app], "/"):
		return out("", http.StatusNotFound)
	case c.app == "malformed":
		return out("", http.StatusUnauthorized)
	case c.sees() == none, c.local() == bad:
		return out("Basic", http.StatusUnauthorized)
	}
	switch c.logAccess(c.app) {
	case yes:
		return in.only(c)
	case bad:
		return out("Basic", http.StatusUnauthorized)
	case no:
		return out("", http.StatusNotFound)
	}
	return out("", http.StatusInternalServerError)
}

func (c cell) mayNewApp(in verdict) verdict {
	switch {
	case strings.Contains(ids[c.app], "/"):
		return out("", http.StatusNotFound)
	case c.sees() == none, c.local() == bad:
		return out("Bearer", http.StatusUnauthorized)
	case c.app == "malformed":
		return out("", http.StatusNotFound)
	}
	switch c.logAccess(c.app) {
	case yes:
		return in.only(c)
	case bad:
		return out("Bearer", http.StatusUnauthorized)
	case no:
		return out("", http.StatusNotFound)
	}
	return out("", http.StatusServiceUnavailable)
}

const notFound = `{"message":"resource not found","error":"not_found"}` + "\n\n"

// Everything wrong is one 404. What UAA does not know Cloud Controller may, but not
// what UAA's keys say no to.
func (c cell) mayRead(in verdict) verdict {
	refuse := out("", http.StatusNotFound)
	text := notFound
	refuse.body = &text
	said, scopes := c.identity()
	if c.sees() == none || said == unclear || c.local() == bad {
		return refuse
	}
	asked := []string{c.app}
	if c.path.name == "read own and" {
		asked = append(asked, "own")
	}
	in.shows, in.wants = asked, asked
	if !c.path.takesApp() {
		in = in.all()
	}
	if !slices.ContainsFunc(in.wants, func(name string) bool { return slices.Contains(speak, name) }) {
		in.wants = nil
	}
	if said == yes && isAdmin(scopes) {
		return in
	}
	if !c.path.takesApp() || slices.ContainsFunc(asked, func(name string) bool {
		return c.app == "malformed" || c.logAccess(name) != yes && c.seesService(name) != yes
	}) {
		return refuse
	}
	return in
}

// Everything wrong is one 404, without a body.
func (c cell) mayCache(in verdict) verdict {
	refuse := out("", http.StatusNotFound)
	refuse.body = new(string)
	said, scopes := c.identity()
	admin := isAdmin(scopes)
	if c.sees() == none || said != yes {
		return refuse
	}
	switch c.path.rule {
	case meta:
		if admin {
			return in.all()
		}
		if c.cc("/v3/apps", true) != yes || c.cc("/v3/service_instances", true) != yes {
			return refuse
		}
		in.shows = slices.DeleteFunc(slices.Clone(speak), func(name string) bool { return !c.owns(name) })
		in.wants = in.shows
		return in
	case byName:
		named := c.cc("/v3/apps", true) == yes
		if !admin && (!named || c.seesApp(c.app) != yes) {
			return refuse
		}
		if in = in.only(c); !named {
			in.wants = nil
		}
		return in
	}
	if !admin && c.seesApp(c.app) != yes && c.seesService(c.app) != yes {
		return refuse
	}
	return in.only(c)
}
