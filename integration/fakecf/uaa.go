package fakecf

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keys is the key that tokens are signed with.
type keys struct {
	mu  sync.Mutex
	n   int
	key *rsa.PrivateKey
}

// rotate makes a new key; the old one is gone.
func (k *keys) rotate() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n, k.key = k.n+1, key
	return nil
}

func (k *keys) get() (id string, key *rsa.PrivateKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("key-%d", k.n), k.key
}

// RotateKeys makes UAA sign with a new key, and forget the old one.
func (f *Fake) RotateKeys() error { return f.keys.rotate() }

// Kinds of token.
const (
	JWT    = "jwt"
	Opaque = "opaque"
)

// Issue gives a user a token, good for a lifetime, which may be negative: a
// JWT signed with RS256, or an opaque one. It is in the State from then on.
func (f *Fake) Issue(user, kind string, lifetime time.Duration) (string, error) {
	now := time.Now()
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	id := hex.EncodeToString(random)
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.state.user(user)
	if u == nil {
		return "", fmt.Errorf("there is no user %q", user)
	}
	token := id
	switch kind {
	case Opaque:
	case JWT:
		var err error
		if token, err = f.sign(u, id, now, now.Add(lifetime)); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("kind %q is not %s or %s", kind, JWT, Opaque)
	}
	f.state.Tokens = append(f.state.Tokens, Token{Token: token, User: user, Expires: now.Add(lifetime).Unix()})
	return token, nil
}

func (f *Fake) sign(u *User, id string, now, expires time.Time) (string, error) {
	kid, key := f.keys.get()
	token, err := signed(jose.RS256, key, kid, jose.SignerOptions{}, f.claims(u, id, now, expires))
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// claims are what a token of a user says.
func (f *Fake) claims(u *User, id string, now, expires time.Time) map[string]any {
	said := u.said()
	said["jti"], said["sub"], said["iat"], said["exp"] = id, u.Name, now.Unix(), expires.Unix()
	said["iss"], said["aud"] = f.issuer(), []string{"cf"}
	return said
}

// said is what is told of who holds a token: of a client that has it for itself no
// user is named.
func (u *User) said() map[string]any {
	if u.Client {
		return map[string]any{"client_id": u.Name, "scope": u.scopes()}
	}
	return map[string]any{"user_id": u.Name, "user_name": u.Name, "client_id": "cf", "scope": u.scopes()}
}

func (f *Fake) issuer() string { return f.Ready.UAA + "/oauth/token" }

// discovery tells who issues tokens, and where its keys are.
func (f *Fake) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": f.issuer(), "jwks_uri": f.Ready.UAA + "/token_keys", "token_endpoint": f.issuer(),
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

// scopes is never nil: UAA writes an empty list.
func (u *User) scopes() []string { return append([]string{}, u.Scopes...) }

func (f *Fake) uaa() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /check_token", f.checkToken)
	mux.HandleFunc("GET /token_keys", f.tokenKeys)
	mux.HandleFunc("POST /oauth/token", f.oauthToken)
	mux.HandleFunc("GET /.well-known/openid-configuration", f.discovery)
	mux.HandleFunc("GET /oauth/token/.well-known/openid-configuration", f.discovery) // below its issuer
	return mux
}

func (f *Fake) checkToken(w http.ResponseWriter, r *http.Request) {
	s := f.State()
	id, secret, ok := r.BasicAuth()
	if wantID, wantSecret := s.client(); !ok || id != wantID || secret != wantSecret {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "unauthorized", "error_description": "Bad credentials"})
		return
	}
	user, token := s.holder(r.FormValue("token"), time.Now())
	if user == nil {
		writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_token", "error_description": "the token is unknown or has expired"})
		return
	}
	said := user.said()
	said["iss"], said["aud"] = f.issuer(), []string{"cf"}
	if token.Expires != 0 {
		said["exp"] = token.Expires
	}
	writeJSON(w, http.StatusOK, said)
}

func (f *Fake) tokenKeys(w http.ResponseWriter, _ *http.Request) {
	id, key := f.keys.get()
	text, err := publicPEM(key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	public := jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: string(jose.RS256), Use: "sig"}
	data, err := public.MarshalJSON()
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(data, &fields)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fields["value"] = string(text)
	writeJSON(w, http.StatusOK, map[string]any{"keys": []any{fields}})
}

// lifetime of the tokens of /oauth/token.
const lifetime = 10 * time.Minute

// oauthToken serves the grants that clients use: a user by password or refresh
// token, which is the user's name, and a client by its secret.
func (f *Fake) oauthToken(w http.ResponseWriter, r *http.Request) {
	s := f.State()
	name, password := r.FormValue("username"), r.FormValue("password")
	switch r.FormValue("grant_type") {
	case "client_credentials":
		var ok bool
		if name, password, ok = r.BasicAuth(); !ok {
			name, password = r.FormValue("client_id"), r.FormValue("client_secret")
		}
	case "refresh_token":
		name = r.FormValue("refresh_token")
		if u := s.user(name); u != nil {
			password = u.Password
		}
	case "password":
	default:
		writeJSON(w, http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
		return
	}
	if u := s.user(name); u == nil || u.Password != password {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "unauthorized", "error_description": "Bad credentials"})
		return
	}
	token, err := f.Issue(name, JWT, lifetime)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "bearer", "expires_in": int(lifetime.Seconds()), "refresh_token": name,
	})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the client may be gone
}
