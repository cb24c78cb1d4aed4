package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// status asks Cloud Controller for a path on behalf of the token, which is
// passed on unchanged. Every status is an answer; only 200 is kept, and only
// with a whole body. Tokens of one identity share answers, but for the word that
// one of them is not accepted.
func (a *Auth) status(ctx context.Context, which Call, s *service, path, authorization string) (int, error) {
	if id, ok := ctx.Value(known{}).(string); ok {
		status, err := a.askStatus(ctx, keyOf(which.String(), "of", id, path), which, s, path, authorization)
		if err != nil || status != http.StatusUnauthorized {
			return status, err
		}
	}
	return a.askStatus(ctx, keyOf(which.String(), authorization, path), which, s, path, authorization)
}

func (a *Auth) askStatus(ctx context.Context, k key, which Call, s *service, path, authorization string) (int, error) {
	return ask(ctx, a, k, func(ctx context.Context) (int, time.Time, error) {
		var status int
		r, err := ccRequest(ctx, s.base+path, authorization)
		if err != nil {
			return 0, time.Time{}, err
		}
		err = a.call(which, s, r, authorization, func(resp *http.Response) error {
			status = resp.StatusCode
			if _, err := readAll(resp); status == http.StatusOK {
				return err
			}
			return nil
		})
		if statusReason(status) == InvalidToken || statusReason(status) == NotFound {
			a.cache.forget(k) // a yes from before
		}
		if status != http.StatusOK || err != nil {
			return status, time.Time{}, err
		}
		return status, a.keepUntil(bare(authorization), 0), nil
	})
}

func ccRequest(ctx context.Context, url, authorization string) (*http.Request, error) {
	if !sendable(authorization) {
		return nil, fmt.Errorf("%w: it has control characters", ErrInvalidToken)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask Cloud Controller: %w", err)
	}
	r.Header.Set("Authorization", authorization)
	return r, nil
}

// logAccess asks the internal API whether the token may read an app's logs.
func (a *Auth) logAccess(ctx context.Context, authorization, id string) (int, error) {
	return a.status(ctx, CallLogAccess, a.inside, "/internal/v4/log_access/"+url.PathEscape(id), authorization)
}

// app asks whether the token may see an app.
func (a *Auth) app(ctx context.Context, authorization, id string) (int, error) {
	if a.external == nil {
		return a.logAccess(ctx, authorization, id)
	}
	return a.status(ctx, CallApp, a.external, "/v3/apps/"+url.PathEscape(id), authorization)
}

// serviceInstance asks whether the token may see a service instance.
func (a *Auth) serviceInstance(ctx context.Context, authorization, id string) (int, error) {
	if a.external == nil {
		return http.StatusNotFound, nil
	}
	return a.status(ctx, CallServiceInstance, a.external, "/v3/service_instances/"+url.PathEscape(id), authorization)
}

// Bounds of a list: half a million apps at 5,000 a page, and some.
const (
	maxPages  = 100
	maxListed = 600_000
)

var errNoExternal = errors.New("the public API of Cloud Controller is not configured (--cc-external-addr)")

// resource is one element of a list.
type resource struct {
	GUID string `json:"guid"`
	Name string `json:"name"`
}

// list walks a list, page by page. Callers who ask for the same list at once
// share one walk, and its result. No list is kept.
func (a *Auth) list(ctx context.Context, which Call, path, authorization string) ([]resource, error) {
	if a.external == nil {
		return nil, errNoExternal
	}
	k := keyOf(which.String(), authorization, path)
	return ask(ctx, a, k, func(ctx context.Context) ([]resource, time.Time, error) {
		var all []resource
		next := path
		for range maxPages {
			r, err := ccRequest(ctx, a.external.base+next, authorization)
			if err != nil {
				return nil, time.Time{}, err
			}
			err = a.call(which, a.external, r, authorization, func(resp *http.Response) (err error) {
				next, err = readPage(resp, maxListBytes, func(r resource) { all = append(all, r) })
				return err
			})
			if err != nil || next == "" {
				return all, time.Time{}, err
			}
			if len(all) > maxListed {
				return nil, time.Time{}, fmt.Errorf("ask %s: the list has more than %d elements", which, maxListed)
			}
		}
		return nil, time.Time{}, fmt.Errorf("ask %s: the list has more than %d pages", which, maxPages)
	})
}

// readPage reads one page of at most limit bytes, an element at a time, and
// returns the path of the next one. Its host is not followed: the token is for this service alone.
func readPage(resp *http.Response, limit int64, each func(resource)) (next string, err error) {
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return "", ErrInvalidToken
	default:
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	limited := &io.LimitedReader{R: resp.Body, N: limit + 1}
	href, err := decodePage(limited, each)
	switch {
	case limited.N == 0:
		return "", fmt.Errorf("the page is longer than %d bytes", limit)
	case err != nil:
		return "", fmt.Errorf("read page: %w", err)
	case href == "":
		return "", nil
	}
	u, err := url.Parse(href)
	if err != nil || !strings.HasPrefix(u.EscapedPath(), "/v3/") {
		return "", errors.New("pagination.next does not lead to /v3/")
	}
	return u.EscapedPath() + "?" + u.RawQuery, nil
}

// decodePage decodes {"pagination":{"next":{"href":..}},"resources":[..]}, both
// of which have to be there.
func decodePage(r io.Reader, each func(resource)) (href string, err error) {
	d := json.NewDecoder(r)
	var pagination struct {
		Next *struct {
			Href string `json:"href"`
		} `json:"next"`
	}
	seen := map[string]bool{}
	if err := delim(d, '{'); err != nil {
		return "", err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return "", err
		}
		switch name {
		case "pagination":
			err = d.Decode(&pagination)
		case "resources":
			err = decodeResources(d, each)
		default:
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return "", err
		}
		seen[fmt.Sprint(name)] = true
	}
	if err := delim(d, '}'); err != nil {
		return "", err
	}
	if !seen["resources"] || !seen["pagination"] {
		return "", errors.New("resources or pagination are missing")
	}
	if pagination.Next == nil {
		return "", nil
	}
	return pagination.Next.Href, nil
}

func decodeResources(d *json.Decoder, each func(resource)) error {
	if err := delim(d, '['); err != nil {
		return err
	}
	for d.More() {
		var r resource
		if err := d.Decode(&r); err != nil {
			return err
		}
		if r.GUID != "" {
			each(r)
		}
	}
	return delim(d, ']')
}

func delim(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v instead of %v", got, want)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
