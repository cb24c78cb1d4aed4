package auth

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPlainRefusals(t *testing.T) {
	for why, want := range map[Reason]struct {
		status           int
		challenge, retry string
		words            string
	}{
		Undecided:    {503, "", "5", "no clear answer"},
		NoToken:      {401, "Bearer", "", "a token is needed"},
		InvalidToken: {401, `Bearer error="invalid_token"`, "", "not valid"},
		NoScope:      {403, `Bearer error="insufficient_scope", scope="doppler.firehose"`, "", "doppler.firehose"},
		InvalidID:    {404, "", "", "no such app"},
		NotFound:     {404, "", "", "no such app"},
		TooMany:      {429, "", "", "1000"},
		Outage:       {503, "", "5", "no clear answer"},
		Gone:         {503, "", "5", "no clear answer"},
	} {
		w := httptest.NewRecorder()
		refuseFirehose(why, "x").Plain().Write(w)
		h := w.Header()
		if w.Code != want.status || h.Get("WWW-Authenticate") != want.challenge || h.Get("Retry-After") != want.retry || !strings.Contains(w.Body.String(), want.words) {
			t.Errorf("%v: %d %v %q", why, w.Code, h, w.Body)
		}
	}
	if d := allow(Identity{UserID: "u"}); !d.Plain().Allowed() || d.Plain().Status != 0 {
		t.Errorf("%+v", d.Plain())
	}
}
