package auth

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// LogCache decides about reading sources as Log Cache's auth proxy does
// (protocol/04 section 7): an admin may read all, others apps and service
// instances that Cloud Controller shows them. Everything refused is a 404 with
// an empty body.
func (a *Auth) LogCache(ctx context.Context, r *http.Request, sourceIDs ...string) Decision {
	return a.stats.decided(SurfaceLogCache, a.logCache(ctx, r, func(ctx context.Context, id Identity, authorization string) Reason {
		return eachSource(ctx, sourceIDs, func(source string) Reason { return a.visible(ctx, id, authorization, source) })
	}))
}

// logCache decides for an admin, and leaves others to check.
func (a *Auth) logCache(ctx context.Context, r *http.Request, check func(ctx context.Context, id Identity, authorization string) Reason) Decision {
	if a.cfg.Disabled {
		return allow(Identity{})
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return refuseLogCache(NoToken)
	}
	id, err := a.verifier.Verify(ctx, bare(authorization))
	if err != nil {
		return refuseLogCache(refusal(ctx, err))
	}
	if !id.isAdmin() {
		if why := check(knownAs(ctx, id), id, authorization); why != Allowed {
			return refuseLogCache(why)
		}
	}
	return allow(id)
}

// visible asks for an app, then for a service instance.
func (a *Auth) visible(ctx context.Context, id Identity, authorization, source string) Reason {
	if id.Grants != nil {
		return id.Grants.reason(source)
	}
	if !askable(source) {
		return InvalidID
	}
	return a.either(ctx, authorization, source, a.app, a.serviceInstance)
}

// Visible is the set of sources that somebody may see. The zero value is empty.
type Visible struct {
	all    bool
	ids    map[string]struct{}
	grants *Grants
}

// Has tells whether a source is in it.
func (v Visible) Has(source string) bool {
	_, ok := v.ids[source]
	return v.all || ok || v.grants != nil && v.grants.has(source)
}

// LogCacheMeta decides about Log Cache's meta, and says which sources it may
// show: all to an admin, else the apps and service instances that Cloud
// Controller lists. Half a list is an outage.
func (a *Auth) LogCacheMeta(ctx context.Context, r *http.Request) (Decision, Visible) {
	seen := Visible{all: true}
	d := a.logCache(ctx, r, func(ctx context.Context, id Identity, authorization string) Reason {
		if id.Grants != nil {
			seen = Visible{grants: id.Grants}
			return Allowed
		}
		seen = Visible{ids: map[string]struct{}{}}
		for _, l := range []struct {
			which Call
			path  string
		}{{CallApps, "/v3/apps?per_page=5000"}, {CallServiceInstances, "/v3/service_instances?per_page=5000"}} {
			listed, err := a.list(ctx, l.which, l.path, authorization)
			if err != nil {
				return refusal(ctx, err)
			}
			for _, r := range listed {
				seen.ids[r.GUID] = struct{}{}
			}
		}
		return Allowed
	})
	if !d.Allowed() {
		seen = Visible{}
	}
	return a.stats.decided(SurfaceLogCache, d), seen
}

// LogCacheQuery decides about a query of sources that may be named by the name
// of an app: read says for each what to read, itself and the apps of that name,
// as far as allowed. A source of which nothing may be read refuses the query.
// Without an answer about names they stand for nothing but themselves.
func (a *Auth) LogCacheQuery(ctx context.Context, r *http.Request, sourceIDs []string) (d Decision, read map[string][]string) {
	read = make(map[string][]string, len(sourceIDs))
	for _, source := range sourceIDs {
		read[source] = []string{source}
	}
	if len(read) > MaxSources {
		return a.stats.decided(SurfaceLogCache, refuseLogCache(TooMany)), nil
	}
	// The token is checked first, so that nobody without one can ask for names.
	admin := true
	d = a.logCache(ctx, r, func(context.Context, Identity, string) Reason { admin = false; return Allowed })
	if d.Allowed() && !a.cfg.Disabled {
		ctx, authorization := knownAs(ctx, d.Identity), r.Header.Get("Authorization")
		if d.Identity.Grants == nil {
			a.addNamed(ctx, authorization, sourceIDs, read)
		}
		if why := a.onlyVisible(ctx, d.Identity, authorization, admin, sourceIDs, read); why != Allowed {
			d = refuseLogCache(why)
		}
	}
	if !d.Allowed() {
		read = nil
	}
	return a.stats.decided(SurfaceLogCache, d), read
}

// addNamed adds the apps of each name, as Cloud Controller lists them.
func (a *Auth) addNamed(ctx context.Context, authorization string, names []string, read map[string][]string) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" || strings.Contains(name, ",") })
	path := "/v3/apps?" + url.Values{"names": {strings.Join(names, ",")}, "per_page": {"5000"}}.Encode()
	if len(names) == 0 || len(path) > maxNamesBytes {
		return
	}
	listed, err := a.list(ctx, CallApps, path, authorization)
	if err != nil {
		return
	}
	added := 0
	for _, app := range listed {
		if ids, ok := read[app.Name]; ok && app.GUID != app.Name && added < MaxSources {
			read[app.Name] = append(ids, app.GUID)
			added++
		}
	}
}

// maxNamesBytes bounds the path that asks for names, below what servers take.
const maxNamesBytes = 8 << 10

// onlyVisible leaves what may be read of each source, and refuses when that is
// nothing.
func (a *Auth) onlyVisible(ctx context.Context, id Identity, authorization string, admin bool, names []string, read map[string][]string) Reason {
	if admin {
		return Allowed
	}
	return eachSource(ctx, names, func(name string) Reason {
		var kept []string
		first := Undecided
		for _, source := range read[name] {
			why := a.visible(ctx, id, authorization, source)
			if why == Allowed {
				kept = append(kept, source)
			} else if first == Undecided {
				first = why
			}
		}
		if len(kept) == 0 {
			return first
		}
		read[name] = kept
		return Allowed
	})
}

func refuseLogCache(why Reason) Decision {
	return Decision{Reason: why, Status: http.StatusNotFound}
}
