package auth

import (
	"strings"

	"github.com/a1ea6966/loggregator/internal/tokens"
)

// Grants is what a token may read by what is configured here. Cloud Controller
// has no say in it.
type Grants struct {
	all      bool // every source, and the Firehose
	ids      map[string]struct{}
	prefixes []string
}

// nothing is granted to tokens that are not good.
var nothing = &Grants{}

// grant adds what a pattern names: a source by its id, sources by how their ids
// begin, with "*" at the end, or everything, with "*" alone.
func (g *Grants) grant(pattern string) error {
	if err := tokens.CheckSource(pattern); err != nil {
		return err
	}
	prefix, open := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == tokens.All:
		g.all = true
	case open:
		g.prefixes = append(g.prefixes, prefix)
	default:
		g.id(prefix)
	}
	return nil
}

// id adds one source, in which * means nothing.
func (g *Grants) id(source string) {
	if g.ids == nil {
		g.ids = map[string]struct{}{}
	}
	g.ids[source] = struct{}{}
}

// add adds all that other has.
func (g *Grants) add(other *Grants) {
	g.all = g.all || other.all
	for id := range other.ids {
		g.id(id)
	}
	g.prefixes = append(g.prefixes, other.prefixes...)
}

// has tells whether a source may be read. Where no source is named all are meant.
func (g *Grants) has(source string) bool {
	if g.all || source == "" {
		return g.all
	}
	if _, ok := g.ids[source]; ok {
		return true
	}
	for _, p := range g.prefixes {
		if strings.HasPrefix(source, p) {
			return true
		}
	}
	return false
}

// reason is has in words.
func (g *Grants) reason(source string) Reason {
	if g.has(source) {
		return Allowed
	}
	return NotFound
}
