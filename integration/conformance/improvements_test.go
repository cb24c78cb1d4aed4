package conformance

import "strings"

// improvements are all differences on purpose that the replays meet.
var improvements = []improvement{
	{reason: "Every answer of the Traffic Controller forbids browsers to guess its type (`X-Content-Type-Options: nosniff`).", everywhere: true,
		fits: func(_, _ string, d difference) bool {
			return d == difference{"header X-Content-Type-Options", "", "nosniff"}
		}},
	{reason: "The Traffic Controller's answer to a handshake that is none says what it lacks.",
		fits: plain("tc_http.json", "Bad Request\n", "Bad Request: ")},
	{reason: "At its limit of streams the Traffic Controller says so, and when to come back (`Retry-After`).",
		fits: func(file, name string, d difference) bool {
			return file == "tc_http.json" && strings.HasSuffix(name, "at connection limit") &&
				(d.field == "header Retry-After" || d.field == "header Content-Type" || d.field == "header Content-Length" || d.field == "body" && strings.HasPrefix(d.got, "too many connections"))
		}},
	{reason: "`recentlogs` and `containermetrics` are served (again).",
		fits: func(file, name string, d difference) bool {
			return file == "tc_http.json" && strings.Contains(name, "(gone since v10") && (d.field != "status" || d.got == "200")
		}},
	{reason: "`GET /` is the discovery document.",
		fits: func(file, name string, d difference) bool {
			return (file == "tc_http.json" && name == "root" || file == "rlp_gateway_http.json" && name == "other path") &&
				(d.field != "status" || d.got == "200") && (d.field != "body" || strings.Contains(d.got, `"links"`))
		}},
	{reason: "The Traffic Controller's answer that there is nothing at a path says where to look.",
		fits: plain("tc_http.json", "404 page not found\n", "there is nothing at ")},
}

// plain fits an answer in plain words, and what follows from its length.
func plain(file, want, got string) func(file, name string, d difference) bool {
	length := map[string]string{"404 page not found\n": "19", "Bad Request\n": "12"}[want]
	return func(f, _ string, d difference) bool {
		return f == file && (d.want == want && strings.HasPrefix(d.got, got) || d.field == "header Content-Length" && d.want == length)
	}
}
