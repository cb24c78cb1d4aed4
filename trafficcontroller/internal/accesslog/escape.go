package accesslog

import (
	"fmt"
	"net/url"
	"strings"
)

// Escape is how what clients say is put into a line.
type Escape string

// The ways to escape.
const (
	// HTML is how the old Traffic Controller does it (protocol/03): readers that
	// take CEF at its word see a new field after each = and | in a path.
	HTML Escape = "html"
	// CEF is as the format has it: a backslash before | and \ in the header, and
	// before = and \ in values.
	CEF Escape = "cef"
)

// Escapes are the ways there are.
func Escapes() []string { return []string{string(HTML), string(CEF)} }

var (
	inHeader = strings.NewReplacer(`\`, `\\`, `|`, `\|`)
	inValue  = strings.NewReplacer(`\`, `\\`, `=`, `\=`)
)

// header escapes what stands between bars.
func (e Escape) header(value string) string {
	if e != CEF {
		return clean(value)
	}
	return plain(inHeader.Replace(bounded(value)))
}

// value escapes what stands behind an equals sign.
func (e Escape) value(value string) string {
	if e != CEF {
		return clean(value)
	}
	return plain(inValue.Replace(bounded(value)))
}

// plain has a space for each control character, so that nobody writes a line of
// their own.
func plain(value string) string {
	return strings.Map(func(c rune) rune {
		if isControl(c) {
			return ' '
		}
		return c
	}, value)
}

// maxValueBytes bounds one value of a line.
const maxValueBytes = 8 << 10

func bounded(value string) string {
	if len(value) > maxValueBytes {
		return value[:maxValueBytes] + "..."
	}
	return value
}

var htmlEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;", "+", "&#43;")

// clean escapes a value as the lines always had it (protocol/03), and control
// characters in the same way, so that nobody writes a line of their own.
func clean(value string) string {
	value = htmlEscape.Replace(bounded(value))
	if strings.IndexFunc(value, isControl) < 0 {
		return value
	}
	var b strings.Builder
	for _, c := range value {
		if isControl(c) {
			fmt.Fprintf(&b, "&#%d;", c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// isControl also names the line ends of Unicode.
func isControl(c rune) bool {
	return c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029'
}

const hidden = "(hidden)"

// WithoutSecrets is a raw query whose values that may be tokens are hidden. Nobody
// needs to send them so; some do.
func WithoutSecrets(query string) string {
	var b strings.Builder
	for query != "" {
		end := strings.IndexAny(query, "&;")
		if end < 0 {
			end = len(query)
		}
		b.WriteString(withoutSecret(query[:end]))
		query = query[end:]
		if query != "" {
			b.WriteByte(query[0])
			query = query[1:]
		}
	}
	return b.String()
}

// withoutSecret is one parameter, in which anything may be escaped.
func withoutSecret(pair string) string {
	text, err := url.QueryUnescape(pair)
	if err != nil {
		text = pair
	}
	if key, _, ok := strings.Cut(text, "="); ok && isSecret(key) {
		return url.QueryEscape(key) + "=" + hidden
	}
	return pair
}

// isSecret tells whether a parameter may hold a token.
func isSecret(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"token", "authorization", "cookievalue", "password", "secret"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return key == "code"
}

// pathWithoutSecrets is a decoded path; a question mark in it was escaped, and
// what follows is treated as the query that it looks like.
func pathWithoutSecrets(path string) string {
	path, query, ok := strings.Cut(path, "?")
	if ok {
		path += "?" + WithoutSecrets(query)
	}
	return path
}
