package fakecf

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// internal is Cloud Controller's internal API.
func (f *Fake) internal() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /internal/v4/log_access/{guid}", f.as(func(s *State, u *User, w http.ResponseWriter, r *http.Request) {
		guid := r.PathValue("guid")
		for _, app := range u.visible(s.Apps, u.Apps) {
			if app.GUID == guid || slices.Contains(app.Processes, guid) {
				return // 200, empty
			}
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	return mux
}

// external is Cloud Controller's public API, as far as it is needed.
func (f *Fake) external() http.Handler {
	mux := http.NewServeMux()
	apps := func(s *State, u *User) []Resource { return u.visible(s.Apps, u.Apps) }
	instances := func(s *State, u *User) []Resource { return u.visible(s.ServiceInstances, u.ServiceInstances) }
	for path, visible := range map[string]func(*State, *User) []Resource{"/v3/apps": apps, "/v3/service_instances": instances} {
		mux.HandleFunc("GET "+path, f.as(func(s *State, u *User, w http.ResponseWriter, r *http.Request) {
			writePage(w, r, visible(s, u))
		}))
		mux.HandleFunc("GET "+path+"/{guid}", f.as(func(s *State, u *User, w http.ResponseWriter, r *http.Request) {
			for _, found := range visible(s, u) {
				if found.GUID == r.PathValue("guid") {
					writeJSON(w, http.StatusOK, found)
					return
				}
			}
			ccError(w, http.StatusNotFound, "CF-ResourceNotFound")
		}))
	}
	mux.HandleFunc("GET /{$}", f.root)
	mux.HandleFunc("GET /v2/info", f.info)
	return mux
}

// as finds the user of the token, or refuses as Cloud Controller does.
func (f *Fake) as(serve func(*State, *User, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := f.State()
		user, _ := s.holder(bare(r.Header.Get("Authorization")), time.Now())
		switch {
		case user == nil:
			ccError(w, http.StatusUnauthorized, "CF-InvalidAuthToken")
		case !user.mayRead():
			ccError(w, http.StatusForbidden, "CF-NotAuthorized")
		default:
			serve(&s, user, w, r)
		}
	}
}

func ccError(w http.ResponseWriter, status int, title string) {
	writeJSON(w, status, map[string]any{"errors": []any{map[string]any{"title": title, "detail": title}}})
}

// writePage writes the part of a list that was asked for by page, per_page and
// names.
func writePage(w http.ResponseWriter, r *http.Request, all []Resource) {
	q := r.URL.Query()
	if q.Has("names") {
		names := strings.Split(q.Get("names"), ",")
		all = slices.DeleteFunc(all, func(r Resource) bool { return !slices.Contains(names, r.Name) })
	}
	page, size := number(q, "page", 1), number(q, "per_page", 50)
	if page < 1 || size < 1 || size > 5000 {
		ccError(w, http.StatusBadRequest, "CF-BadQueryParameter")
		return
	}
	from := min((page-1)*size, len(all))
	to := min(from+size, len(all))
	var next any
	if to < len(all) {
		q.Set("page", strconv.Itoa(page+1))
		next = map[string]string{"href": address(r) + r.URL.Path + "?" + q.Encode()}
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"pagination": map[string]any{"total_results": len(all), "next": next},
		"resources":  append([]Resource{}, all[from:to]...),
	})
}

// number is a parameter, or -1 if it is none.
func number(q url.Values, name string, otherwise int) int {
	if !q.Has(name) {
		return otherwise
	}
	n, err := strconv.Atoi(q.Get(name))
	if err != nil || n > 1_000_000 {
		return -1
	}
	return n
}

func address(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// root lists where things are: the State's Links, and what is here.
func (f *Fake) root(w http.ResponseWriter, r *http.Request) {
	hrefs := map[string]string{"self": address(r), "cloud_controller_v3": address(r) + "/v3", "uaa": f.Ready.UAA, "login": f.Ready.UAA}
	maps.Copy(hrefs, f.State().Links)
	links := map[string]any{}
	for name, href := range hrefs {
		links[name] = map[string]string{"href": href}
	}
	writeJSON(w, http.StatusOK, map[string]any{"links": links})
}

func (f *Fake) info(w http.ResponseWriter, _ *http.Request) {
	s := f.State()
	info := map[string]any{
		"name": "fakecf", "version": 0, "authorization_endpoint": f.Ready.UAA, "token_endpoint": f.Ready.UAA,
		"doppler_logging_endpoint": s.Links["logging"],
	}
	maps.Copy(info, s.Info)
	writeJSON(w, http.StatusOK, info)
}
