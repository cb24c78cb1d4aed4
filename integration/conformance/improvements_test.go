package conformance

import "strings"

// improvements are all differences on purpose that the replays meet.
var improvements = []improvement{
	{reason: "Every answer of the Traffic Controller forbids browsers to guess its type (`X-Content-Type-Options: nosniff`).", everywhere: true,
		fits: func(_, _ string, d difference) bool {
			return d == difference{"header X-Content-Type-Options", "", "nosniff"}
		}},
	{reason: "Every answer of the Traffic Controller tells browsers to run, frame and keep nothing of it (`Content-Security-Policy`, `Referrer-Policy`, `Cache-Control`).", everywhere: true,
		fits: func(_, _ string, d difference) bool {
			return d == difference{"header Content-Security-Policy", "", "default-src 'none'; frame-ancestors 'none'"} ||
				d == difference{"header Referrer-Policy", "", "no-referrer"} || d == difference{"header Cache-Control", "", "no-store"}
		}},
	{reason: "The Traffic Controller's answer to a handshake that is none says what it lacks.",
		fits: plain("http.json", "Bad Request\n", "Bad Request: ")},
	{reason: "At its limit of streams the Traffic Controller says so, and when to come back (`Retry-After`).",
		fits: func(file, name string, d difference) bool {
			return name == "admin, provider refuses" && d == difference{"header Retry-After", "", "5"} ||
				file == "tc_http.json" && strings.HasSuffix(name, "at connection limit") && (d.field == "header Retry-After" || d.field == "header Content-Type" || d.field == "header Content-Length" || d.field == "body" && strings.HasPrefix(d.got, "too many connections"))
		}},
	{reason: "`recentlogs` and `containermetrics` are served (again).",
		fits: func(file, name string, d difference) bool {
			return file == "tc_http.json" && strings.Contains(name, "(gone since v10") && (d.field != "status" || d.got == "200")
		}},
	{reason: "`GET /` is the discovery document.",
		fits: func(file, name string, d difference) bool {
			return (name == "root" || name == "auth-proxy: root" || file == "rlp_gateway_http.json" && name == "other path") &&
				(d.field != "status" || d.got == "200") && (d.field != "body" || strings.Contains(d.got, `"links"`))
		}},
	{reason: "The Traffic Controller's answer that there is nothing at a path says where to look.",
		fits: plain("http.json", "404 page not found\n", "there is nothing at ")},
	{reason: "A log without payload, a blank line, reaches old clients; the old system loses it.",
		fits: func(file, _ string, d difference) bool {
			return file == "v2_to_v1.json" && d.want == "nothing: proto: required field events.LogMessage.message not set"
		}},
	{reason: "A timer without a `request_id` that is a UUID reaches old clients, with the UUID of zeros; the old system loses it.",
		fits: func(file, _ string, d difference) bool {
			return file == "v2_to_v1.json" && d.want == "nothing: proto: required field events.HttpStartStop.requestId not set"
		}},
	{reason: "A v1 string that is not UTF-8 becomes one that is, with U+FFFD for each bad byte; the old system loses the envelope.",
		fits: func(file, _ string, d difference) bool {
			return file == "v1_to_v2.json" && d == difference{"result", "nothing: string field contains invalid UTF-8", "\uFFFD"}
		}},
	{reason: "Where Log Cache's gateway and the proxy before it differ, `/api/v1` does as the proxy does: `meta` in camel case, 400 `bad_data` for queries, plain words for a path that is none.",
		fits: likeProxy},
	{reason: "`/api/v1/read` finds a source id with a plain slash, as Log Cache's gateway does: go-log-cache does not escape it.",
		fits: func(file, name string, d difference) bool {
			return name == "auth-proxy: read admin, source with slash" && (d.field != "status" || d.got == "200") && (d.field != "body" || strings.Contains(d.got, `"source_id":"cf/job"`))
		}},
	{reason: "`/api/v1/meta` says in a header what is kept of a source (`Loggregator-Source-Limits`).", everywhere: true,
		fits: func(file, _ string, d difference) bool {
			return file == "log_cache_http.json" && d.field == "header Loggregator-Source-Limits" && d.want == ""
		}},
}

// likeProxy fits what the gateway of Log Cache answered and its proxy does not.
func likeProxy(_, name string, d difference) bool {
	must := map[string]string{
		"gateway: meta": `{"meta":{"cf/job":{"count":"1","oldestTimestamp":`, "gateway: old path": `there is nothing at "/v1/meta"`,
		"gateway: POST-only? GET query without query": `"bad_data","error":"parse error`, "gateway: query bad": `"bad_data","error":"parse error`,
		"gateway: query without source_id": `"bad_data","error":"query does not request any source_ids"`,
	}[name]
	return must != "" && (d.field != "body" || strings.Contains(d.got, must)) && (d.field != "status" || d.got == "400")
}

// plain fits an answer in plain words, and what follows from its length, in
// files whose names end so.
func plain(suffix, want, got string) func(file, name string, d difference) bool {
	length := map[string]string{"404 page not found\n": "19", "Bad Request\n": "12"}[want]
	return func(f, _ string, d difference) bool {
		return strings.HasSuffix(f, suffix) && (d.want == want && strings.HasPrefix(d.got, got) || d.field == "header Content-Length" && d.want == length)
	}
}
