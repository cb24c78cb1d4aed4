package auth

import (
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

// Config is what an operator sets (names of old jobs: protocol/05 section 9). UAA
// and Cloud Controller go together; they, StaticTokens and OIDC are three ways to
// know who may read what, of which at least one is needed.
type Config struct {
	// Disabled lets everybody read everything. Nothing else is looked at then.
	Disabled bool

	StaticTokens string // file; empty for none
	OIDC         OIDCConfig

	UAAAddr   string // https URL
	UAACA     string // file; empty for the authorities that this host trusts
	UAAClient string
	UAASecret string

	CCAddr       string // https URL of the internal API
	CCTLS        mtls.Files
	CCServerName string // name in its certificate

	// CCExternalAddr is the http or https URL of the public API, for service
	// instances, names and lists. Without it these are for admins only, and the
	// internal API is asked about apps.
	CCExternalAddr string
	CCExternalCA   string // file; empty for the authorities that this host trusts

	// LocalTokens verifies UAA's JWTs by its keys; else it is asked about each.
	LocalTokens bool
	// UAAIssuer is what they have to say that issued them; empty for what UAA says
	// of itself.
	UAAIssuer string
	// TokenAudiences are those of which they have to name one; none for any.
	TokenAudiences []string
	// TokenSkew is how far UAA's clock may be off.
	TokenSkew time.Duration

	// SkipVerify accepts any server certificate.
	SkipVerify bool
	// Timeout bounds one request to UAA or Cloud Controller, body included.
	Timeout time.Duration
	// CacheFor is how long a yes is believed without asking again; 0 for not
	// at all. No yes outlives its token.
	CacheFor time.Duration
	// CacheEntries bounds how many are kept. One takes some 300 bytes.
	CacheEntries int
	// Recheck is how often the tokens of streams that live, and what they allow,
	// are asked about again.
	Recheck time.Duration
}

// DefaultConfig returns one that lacks addresses, files and the secret.
func DefaultConfig() Config {
	return Config{OIDC: OIDCConfig{UserClaim: "sub", GroupsClaim: "groups"}, UAAClient: "doppler", LocalTokens: true, TokenSkew: 10 * time.Second, Timeout: 20 * time.Second, CacheFor: 10 * time.Second, CacheEntries: 50_000, Recheck: 20 * time.Second}
}

// Flags declares every setting but Disabled.
func (c *Config) Flags(f *daemon.Flags) {
	f.String(&c.UAAAddr, "uaa-addr", "https `URL` of UAA")
	f.String(&c.UAACA, "uaa-ca", "`file` with the authority of its certificate; without, those that this host trusts")
	f.String(&c.UAAClient, "uaa-client", "`id` of the UAA client that may check tokens")
	f.String(&c.UAASecret, "uaa-client-secret", "its `secret`; better given in the environment than as a flag")
	f.Bool(&c.LocalTokens, "local-tokens", "verify its JWTs by its keys; false to ask it about each")
	f.String(&c.UAAIssuer, "uaa-issuer", "`issuer` that its JWTs name; without, what it says of itself")
	f.Strings(&c.TokenAudiences, "token-audience", "`audience` that its JWTs have to name, this or another given; may be given again; without, any")
	f.Duration(&c.TokenSkew, "token-skew", "how far its clock may be off from the one here")
	f.String(&c.CCAddr, "cc-addr", "https `URL` of Cloud Controller's internal API")
	f.String(&c.CCTLS.Cert, "cc-tls-cert", "`file` with the certificate shown to it")
	f.String(&c.CCTLS.Key, "cc-tls-key", "`file` with its key")
	f.String(&c.CCTLS.CA, "cc-tls-ca", "`file` with the authority of its certificate")
	f.String(&c.CCServerName, "cc-server-name", "`name` in its certificate")
	f.String(&c.CCExternalAddr, "cc-external-addr", "http or https `URL` of Cloud Controller's public API")
	f.String(&c.CCExternalCA, "cc-external-ca", "`file` with the authority of its certificate; without, those that this host trusts")
	f.Bool(&c.SkipVerify, "skip-cert-verify", "accept any certificate of UAA and Cloud Controller")
	f.Duration(&c.Timeout, "access-timeout", "how long UAA and Cloud Controller may take for an answer")
	f.Duration(&c.CacheFor, "access-cache", "how long their yes is believed without asking again; 0 for not at all")
	f.Int(&c.CacheEntries, "access-cache-entries", "how many of them are kept")
	c.flagsWithout(f)
	f.Duration(&c.Recheck, "access-recheck", "how often it is asked again, while a stream lives, whether its reader may still read")
}

// flagsWithout declares what is for those without UAA and Cloud Controller.
func (c *Config) flagsWithout(f *daemon.Flags) {
	f.String(&c.StaticTokens, "static-tokens", "`file` in YAML with hashes of tokens and what each may read, as lgr token makes it; without UAA, or beside it")
	f.String(&c.OIDC.Issuer, "oidc-issuer", "https `URL` of an OpenID Connect provider whose tokens are taken; without UAA, or beside it")
	f.String(&c.OIDC.CA, "oidc-ca", "`file` with the authority of its certificate; without, those that this host trusts")
	f.Strings(&c.OIDC.Audiences, "oidc-audience", "`audience` that its tokens have to name, this or another given; may be given again")
	f.String(&c.OIDC.UserClaim, "oidc-user-claim", "`claim` with who a token is of")
	f.String(&c.OIDC.GroupsClaim, "oidc-groups-claim", "`claim` with groups or scopes, for --oidc-grant")
	f.Strings(&c.OIDC.Grants, "oidc-grant", "`GROUP=SOURCE[,SOURCE...]` that its tokens may read; an id, one that ends in *, or * for all and the Firehose; may be given again")
	f.String(&c.OIDC.SourcesClaim, "oidc-sources-claim", "`claim` with ids of sources that a token may read besides")
}

// platform tells whether UAA and Cloud Controller are there, or were meant to be.
func (c *Config) platform() bool {
	return c.UAAAddr != "" || c.CCAddr != "" || c.StaticTokens == "" && c.OIDC.Issuer == ""
}

// Validate returns all faults at once, each naming the flag and the limit.
func (c *Config) Validate() error {
	f := &daemon.Faults{}
	if c.Disabled {
		return nil
	}
	if c.platform() {
		c.validatePlatform(f)
	}
	c.OIDC.validate(f)
	daemon.Between(f, "token-skew", c.TokenSkew, 0, 5*time.Minute)
	daemon.Between(f, "access-timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	daemon.Between(f, "access-recheck", c.Recheck, time.Second, time.Hour)
	daemon.Between(f, "access-cache", c.CacheFor, 0, 5*time.Minute)
	daemon.Between(f, "access-cache-entries", c.CacheEntries, 1, 10_000_000)
	return f.Err()
}

func (c *Config) validatePlatform(f *daemon.Faults) {
	checkURL(f, "uaa-addr", c.UAAAddr, "https")
	checkURL(f, "cc-addr", c.CCAddr, "https")
	if c.CCExternalAddr != "" {
		checkURL(f, "cc-external-addr", c.CCExternalAddr, "https", "http")
	}
	for _, needed := range []struct{ flag, value string }{
		{"uaa-client", c.UAAClient}, {"uaa-client-secret", c.UAASecret},
		{"cc-tls-cert", c.CCTLS.Cert}, {"cc-tls-key", c.CCTLS.Key}, {"cc-tls-ca", c.CCTLS.CA},
		{"cc-server-name", c.CCServerName},
	} {
		if needed.value == "" {
			f.Addf(needed.flag, `""`, "is needed unless access control is disabled, or --static-tokens or --oidc-issuer given and neither UAA nor Cloud Controller")
		}
	}
	if slices.Contains(c.TokenAudiences, "") {
		f.Addf("token-audience", `""`, "has to have at least one byte")
	}
}

// checkURL adds a fault unless value is scheme://host, with a path or not.
func checkURL(f *daemon.Faults, flag, value string, schemes ...string) {
	u, err := url.Parse(value)
	ok := err == nil && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
	for _, scheme := range schemes {
		if ok && u.Scheme == scheme {
			return
		}
	}
	f.Addf(flag, fmt.Sprintf("%q", value), "must be %s://host:port, without a query or a user", schemes[0])
}

// services makes the clients of the three APIs.
func services(cfg Config, log *slog.Logger) (uaa, inside, external *service, err error) {
	fail := func(what string, err error) (*service, *service, *service, error) {
		return nil, nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	uaaURL, _ := url.Parse(cfg.UAAAddr)
	uaaTLS, err := mtls.Trusting(cfg.UAACA, uaaURL.Hostname(), log)
	if err != nil {
		return fail("uaa-ca", err)
	}
	files := cfg.CCTLS
	files.Log = log
	insideTLS, err := mtls.Client(files, cfg.CCServerName)
	if err != nil {
		return fail("cc-tls-cert, cc-tls-key, cc-tls-ca", err)
	}
	externalURL, _ := url.Parse(cfg.CCExternalAddr)
	externalTLS, err := mtls.Trusting(cfg.CCExternalCA, externalURL.Hostname(), log)
	if err != nil {
		return fail("cc-external-ca", err)
	}
	if cfg.SkipVerify {
		uaaTLS, insideTLS, externalTLS = unverified(uaaTLS), unverified(insideTLS), unverified(externalTLS)
	}
	if cfg.CCExternalAddr != "" {
		external = newService(cfg.CCExternalAddr, externalTLS, cfg.Timeout)
	}
	return newService(cfg.UAAAddr, uaaTLS, cfg.Timeout), newService(cfg.CCAddr, insideTLS, cfg.Timeout), external, nil
}
