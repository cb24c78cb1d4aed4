package fakecf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// State is all that UAA and Cloud Controller know.
type State struct {
	// Client and Secret are what check_token wants. Empty: doppler, secret.
	Client string `json:"client,omitempty"`
	Secret string `json:"secret,omitempty"`

	Users            []User     `json:"users,omitempty"`
	Tokens           []Token    `json:"tokens,omitempty"`
	Apps             []Resource `json:"apps,omitempty"`
	ServiceInstances []Resource `json:"service_instances,omitempty"`
	// Answers are given instead of the right ones; the first that fits counts.
	Answers []Answer `json:"answers,omitempty"`
	// Links are the hrefs of GET /, by name, and Info what GET /v2/info says.
	Links map[string]string `json:"links,omitempty"`
	Info  map[string]any    `json:"info,omitempty"`
}

// User is somebody, or a client of UAA, who may hold tokens.
type User struct {
	Name     string   `json:"name"`
	Password string   `json:"password,omitempty"` // for /oauth/token
	Scopes   []string `json:"scopes,omitempty"`
	// Client is a client of UAA that has tokens for itself.
	Client bool `json:"client,omitempty"`
	// Apps and ServiceInstances are the guids the user may see.
	Apps             []string `json:"apps,omitempty"`
	ServiceInstances []string `json:"service_instances,omitempty"`
}

// Token is a token that UAA gave out.
type Token struct {
	Token string `json:"token"`
	User  string `json:"user"`
	// Expires is in Unix seconds; 0 for never.
	Expires int64 `json:"expires,omitempty"`
}

// Resource is an app or a service instance.
type Resource struct {
	GUID      string   `json:"guid"`
	Name      string   `json:"name"`
	Processes []string `json:"processes,omitempty"` // guids that stand for the app
}

// Answer is given instead of the right one, to requests that fit all of the
// first three, where empty fits anything.
type Answer struct {
	Server string `json:"server,omitempty"` // uaa, cc (the internal API) or external
	Path   string `json:"path,omitempty"`   // how the path begins
	Token  string `json:"token,omitempty"`  // without bearer

	Status int    `json:"status,omitempty"` // 0: 200
	Body   string `json:"body,omitempty"`
	How    How    `json:"how,omitempty"`
	// Times bounds how often it is given; 0 for always.
	Times int `json:"times,omitempty"`
}

// How is how an answer is given.
type How string

// Ways to answer.
const (
	Plain    How = ""         // status and body
	Hang     How = "hang"     // nothing, until the client leaves
	Stall    How = "stall"    // status and body, but no end
	Drop     How = "close"    // the connection is closed
	Garbage  How = "garbage"  // what is no HTTP
	Truncate How = "truncate" // less than was announced
	Huge     How = "huge"     // the body, and 32 MiB of blanks
)

// ParseState reads a state in JSON; unknown names are faults.
func ParseState(data []byte) (State, error) {
	var s State
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return State{}, fmt.Errorf("read state: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return State{}, errors.New("read state: there is something after it")
	}
	return s, s.validate()
}

func (s *State) validate() error {
	var errs []error
	for _, a := range s.Answers {
		if !slices.Contains([]How{Plain, Hang, Stall, Drop, Garbage, Truncate, Huge}, a.How) {
			errs = append(errs, fmt.Errorf("answers: how %q is not known", a.How))
		}
		if !slices.Contains([]string{"", "uaa", "cc", "external"}, a.Server) {
			errs = append(errs, fmt.Errorf("answers: server %q is not uaa, cc or external", a.Server))
		}
		if a.Status != 0 && (a.Status < 200 || a.Status > 999) {
			errs = append(errs, fmt.Errorf("answers: status %d is not between 200 and 999", a.Status))
		}
	}
	for _, t := range s.Tokens {
		if s.user(t.User) == nil {
			errs = append(errs, fmt.Errorf("tokens: there is no user %q", t.User))
		}
	}
	return errors.Join(errs...)
}

// clone copies what Change may change.
func (s *State) clone() State {
	c := *s
	c.Users, c.Tokens, c.Answers = slices.Clone(s.Users), slices.Clone(s.Tokens), slices.Clone(s.Answers)
	c.Apps, c.ServiceInstances = slices.Clone(s.Apps), slices.Clone(s.ServiceInstances)
	return c
}

func (s *State) client() (id, secret string) {
	if s.Client == "" && s.Secret == "" {
		return "doppler", "secret"
	}
	return s.Client, s.Secret
}

func (s *State) user(name string) *User {
	i := slices.IndexFunc(s.Users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return nil
	}
	return &s.Users[i]
}

// holder is the user of a token that holds at a time, or nil.
func (s *State) holder(token string, at time.Time) (*User, Token) {
	for _, t := range s.Tokens {
		if t.Token == token && (t.Expires == 0 || at.Unix() < t.Expires) {
			return s.user(t.User), t
		}
	}
	return nil, Token{}
}

// seesAll tells whether a user sees everything.
func (u *User) seesAll() bool {
	return slices.ContainsFunc(u.Scopes, func(scope string) bool {
		return scope == "cloud_controller.admin" || scope == "cloud_controller.admin_read_only" || scope == "cloud_controller.global_auditor"
	})
}

// mayRead tells whether a user's token is good for Cloud Controller at all.
func (u *User) mayRead() bool {
	return u.seesAll() || slices.Contains(u.Scopes, "cloud_controller.read")
}

// visible returns those of all that a user sees: everything, or what ids names.
func (u *User) visible(all []Resource, ids []string) []Resource {
	return slices.DeleteFunc(slices.Clone(all), func(r Resource) bool { return !u.seesAll() && !slices.Contains(ids, r.GUID) })
}

// answer is what to give instead of the right answer, and uses it up.
func (s *State) answer(server, path, token string) (Answer, bool) {
	for i := range s.Answers {
		a := &s.Answers[i]
		fits := (a.Server == "" || a.Server == server) && strings.HasPrefix(path, a.Path) && (a.Token == "" || a.Token == token)
		if !fits {
			continue
		}
		given := *a
		if a.Times == 1 {
			s.Answers = slices.Delete(s.Answers, i, i+1)
		} else if a.Times > 1 {
			a.Times--
		}
		return given, true
	}
	return Answer{}, false
}
