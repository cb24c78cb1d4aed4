package tokens

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// made runs lgr token, and returns the token and its entry for the file.
func made(t *testing.T, args ...string) (token, entry string) {
	t.Helper()
	var out strings.Builder
	p := blackbox.Launch(t, process.Lgr, process.Command{Args: append([]string{"token"}, args...), Stdout: &out})
	blackbox.Finish(t.Context(), t, p)
	return strings.TrimSpace(p.Log()), out.String()
}

// TestWithoutPlatform runs a pipeline that knows neither UAA nor Cloud Controller,
// but a file of tokens and an OpenID Connect provider, which is UAA's other face.
func TestWithoutPlatform(t *testing.T) {
	ctx := t.Context()
	cf, err := pipeline.StartCF(blackbox.Programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cf.Kill)
	p := &platform{cf: cf}
	p.know(ctx, t, fakecf.State{Users: []fakecf.User{{Name: "olga", Scopes: []string{"payments.dev"}}, {Name: "nemo", Scopes: []string{"doppler.firehose"}}}})
	team, teamEntry := made(t, "team", "--source", app, "--source", "pay-*", "--for", "1h")
	all, allEntry := made(t, "nozzle", "--all")
	tokens := filepath.Join(t.TempDir(), "tokens.yml")
	write := func(entries string) {
		t.Helper()
		if err := os.WriteFile(tokens, []byte("tokens:\n"+entries), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(teamEntry + allEntry)
	p.Pipeline = blackbox.Start(t, pipeline.Config{Dopplers: 1, Controllers: 1, Access: []string{
		"--static-tokens", tokens, "--access-recheck", "1s",
		"--oidc-issuer", cf.UAA + "/oauth/token", "--oidc-ca", cf.UAACA, "--oidc-audience", "cf", "--oidc-groups-claim", "scope",
		"--oidc-grant", "payments.dev=" + app,
	}})
	olga, nemo := p.issue(ctx, t, "olga", fakecf.JWT, time.Hour), p.issue(ctx, t, "nemo", fakecf.JWT, time.Hour)

	for _, c := range []struct {
		name, path, token string
		status            int
	}{
		{"a team's source", "/api/v1/read/" + app, team, 200},
		{"one by its beginning", "/api/v1/read/pay-api", team, 200},
		{"another's source", "/api/v1/read/other", team, 404},
		{"everything", "/v2/read?log", team, 404},
		{"by a group", "/api/v1/read/" + app, olga, 200},
		{"of no group", "/api/v1/read/" + app, nemo, 404},
		{"UAA's scopes are none", "/v2/read?log", nemo, 404},
		{"opaque, of UAA", "/api/v1/read/" + app, p.issue(ctx, t, "olga", fakecf.Opaque, time.Hour), 404},
		{"no token", "/apps/pay-api/recentlogs", "", 401},
		{"not a token", "/apps/pay-api/recentlogs", "lgr_x", 401},
		{"recent logs", "/apps/pay-api/recentlogs", team, 200},
		{"another's recent logs", "/apps/other/recentlogs", team, 404},
	} {
		if got := p.status(t, c.path, c.token); got != c.status {
			t.Errorf("%s: %s is answered %d, not %d", c.name, c.path, got, c.status)
		}
	}

	outs := map[string]string{}
	tails := map[string]*process.Process{}
	for name, token := range map[string]string{"team": team, "all": all, "olga": olga} {
		path, out := file(t, name)
		outs[name] = path
		tails[name] = p.logs(t, out, "--token", token)
	}
	blackbox.Poll(ctx, t, "the tails to be open", func() bool {
		return blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_held_tokens") == 3
	})
	stop := p.say(ctx, t)
	blackbox.Poll(ctx, t, "lines", func() bool { return count(t, outs["team"]) > 20 })
	said := stop()
	for _, path := range outs {
		blackbox.Poll(ctx, t, "all lines", func() bool { return count(t, path) >= said })
		whole(t, path, said)
	}

	write(allEntry)
	code, err := tails["team"].Wait(ctx)
	if log := tails["team"].Log(); err != nil || code == 0 || !strings.Contains(log, "revoked") {
		t.Errorf("taken out of the file: code %d, %v: %s", code, err, log)
	}
	if n := blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_ended_total"); n != 1 {
		t.Errorf("%.0f streams ended, not that of the token taken out", n)
	}
}

// status asks for a path and returns what the answer begins with.
func (p *platform) status(t *testing.T, path, token string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
