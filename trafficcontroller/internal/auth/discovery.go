package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// discovery is what an issuer of tokens says of itself (OpenID Connect Discovery
// 1.0, section 4).
type discovery struct {
	Issuer string `json:"issuer"`
	Keys   string `json:"jwks_uri"`
}

// discover asks it.
func (a *Auth) discover(ctx context.Context, which Call, s *service) (said discovery, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/.well-known/openid-configuration", nil)
	if err != nil {
		return said, fmt.Errorf("ask %s: %w", which, err)
	}
	r.Header.Set("Accept", "application/json")
	err = a.call(which, s, r, "", func(resp *http.Response) error {
		said, err = readDiscovery(resp)
		return err
	})
	return said, err
}

func readDiscovery(resp *http.Response) (said discovery, err error) {
	body, err := readAll(resp)
	if err != nil {
		return said, err
	}
	if resp.StatusCode != http.StatusOK {
		return said, fmt.Errorf("status %d", resp.StatusCode)
	}
	if json.Unmarshal(body, &said) != nil || said.Issuer == "" {
		return discovery{}, errors.New("the answer has no issuer")
	}
	return said, nil
}
