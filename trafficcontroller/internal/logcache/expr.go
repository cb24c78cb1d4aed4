package logcache

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/strutil"
)

// Limits of a PromQL query.
const (
	maxPromQLBytes = 16 << 10
	maxPromQLSteps = 20_000 // of all its regular expressions
	maxSources     = 100
	maxInnerSteps  = 100_000 // of a subquery
	maxGrowth      = 100     // of a label
)

const sourceLabel = "source_id"

var promQL = parser.NewParser(parser.Options{})

// expression is a query that was parsed.
type expression struct {
	text string
	root parser.Expr
	ids  []string // the sources it names; none if it selects nothing
}

// parse parses a query. The error is the caller's fault.
func parse(text string) (x expression, err error) {
	if len(text) > maxPromQLBytes {
		return x, fmt.Errorf("the query has %d bytes, the limit is %d", len(text), maxPromQLBytes)
	}
	if err := checkStrings(text); err != nil {
		return x, err
	}
	root, err := promQL.ParseExpr(text)
	if err != nil {
		return x, oldParseError(err)
	}
	if err := checkGrowth(root); err != nil {
		return x, err
	}
	ids, err := sourcesOf(root)
	return expression{text, root, ids}, err
}

func sourcesOf(root parser.Expr) (ids []string, err error) {
	var nameless, homeless error
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		v, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		metric, named := metricOf(v.LabelMatchers)
		if !named {
			nameless = errors.New("a metric has to be selected by its name")
		}
		found := idsOf(v.LabelMatchers)
		if len(found) == 0 {
			homeless = fmt.Errorf("metric '%s' does not have a 'source_id' label", metric)
		}
		ids = append(ids, found...)
		return nil
	})
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch {
	case homeless != nil && len(ids) == 0:
		return nil, errors.New("query does not request any source_ids")
	case len(ids) > maxSources:
		return nil, fmt.Errorf("the query names %d sources, the limit is %d", len(ids), maxSources)
	}
	return ids, errors.Join(homeless, nameless)
}

// checkSteps bounds the steps of subqueries, for which the engine takes memory
// in advance. span is that of the whole query.
func (x expression) checkSteps(span time.Duration) error {
	var tooMany error
	parser.Inspect(x.root, func(node parser.Node, path []parser.Node) error {
		inner, ok := node.(*parser.SubqueryExpr)
		if !ok {
			return nil
		}
		step := inner.Step
		if step == 0 {
			step = defaultStep
		}
		steps := (float64(span) + float64(inner.Range)) / float64(step)
		for _, n := range path {
			if outer, ok := n.(*parser.SubqueryExpr); ok {
				steps += float64(outer.Range) / float64(step)
			}
		}
		if steps > maxInnerSteps {
			tooMany = fmt.Errorf("a subquery has %.0f steps, the limit is %d", steps, maxInnerSteps)
		}
		return nil
	})
	return tooMany
}

// checkGrowth bounds how long labels can be made out of labels.
func checkGrowth(root parser.Expr) error {
	growth := 1
	parser.Inspect(root, func(node parser.Node, _ []parser.Node) error {
		call, ok := node.(*parser.Call)
		if !ok || growth > maxGrowth {
			return nil
		}
		switch call.Func.Name {
		case "label_replace":
			growth *= max(strings.Count(call.Args[2].String(), "$"), 1)
		case "label_join":
			growth *= max(len(call.Args)-3, 1)
		}
		return nil
	})
	if growth > maxGrowth {
		return fmt.Errorf("the query puts labels together out of more than %d, which is the limit", maxGrowth)
	}
	return nil
}

// checkStrings bounds what the regular expressions of a query cost, before the
// parser makes them. Any string may be one.
func checkStrings(text string) error {
	sum := 0
	lexer := parser.Lex(text)
	for item := (parser.Item{}); ; {
		lexer.NextItem(&item)
		switch item.Typ {
		case parser.EOF, parser.ERROR:
			return nil
		case parser.STRING:
			s, err := strutil.Unquote(item.Val)
			if err != nil {
				continue // the parser will say so
			}
			n, err := stepsOf(s)
			if err != nil {
				continue // no regular expression, or the parser will say so
			}
			if sum += n; sum > maxPromQLSteps {
				return fmt.Errorf("the regular expressions of the query make more than %d steps, which is the limit", maxPromQLSteps)
			}
		}
	}
}

// oldParseError words a fault as the Prometheus in Log Cache did.
func oldParseError(err error) error {
	var faults parser.ParseErrors
	if !errors.As(err, &faults) || len(faults) == 0 {
		return err
	}
	f := faults[0]
	before := f.Query[:min(max(int(f.PositionRange.Start), 0), len(f.Query))]
	line := strings.Count(before, "\n")
	if !strings.Contains(f.Query, "\n") {
		return fmt.Errorf("parse error at char %d: %w", len(before)+1, f.Err)
	}
	return fmt.Errorf("parse error at line %d, char %d: %w", line+1, len(before)-strings.LastIndexByte(before, '\n'), f.Err)
}

// metricOf is the name that is selected.
func metricOf(matchers []*labels.Matcher) (name string, ok bool) {
	for _, m := range matchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			return m.Value, true
		}
	}
	return "", false
}

// idsOf are the sources that are selected: those of the first = or =~ that the
// other matchers let through. A regular expression is a list of ids.
func idsOf(matchers []*labels.Matcher) (ids []string) {
	for _, m := range matchers {
		if m.Name != sourceLabel || ids != nil {
			continue
		}
		switch m.Type {
		case labels.MatchEqual:
			ids = []string{m.Value}
		case labels.MatchRegexp:
			if ids = slices.Clone(m.SetMatches()); len(ids) == 0 {
				ids = strings.Split(m.Value, "|")
			}
		}
	}
	return slices.DeleteFunc(ids, func(id string) bool {
		return slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return m.Name == sourceLabel && !m.Matches(id) })
	})
}
