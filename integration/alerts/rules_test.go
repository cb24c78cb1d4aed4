package alerts

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// TestEveryRuleSaysWhatToDo looks at what people get.
func TestEveryRuleSaysWhatToDo(t *testing.T) {
	for name, r := range rules(t) {
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", name, s)
		}
		if r.Annotations["summary"] == "" || len(r.Annotations["description"]) < 40 {
			t.Errorf("%s: summary %q, description %q", name, r.Annotations["summary"], r.Annotations["description"])
		}
	}
}

// TestEveryMetricOfRulesExists asks the running programs for what the rules
// select: names, labels and, where they have to be equal to something, values.
func TestEveryMetricOfRulesExists(t *testing.T) {
	exported := scrape(t)
	used := regexp.MustCompile(`\$labels\.(\w+)`)
	for name, r := range rules(t) {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr)
		if err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{"instance": true, "job": true}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if s, ok := n.(*parser.VectorSelector); ok {
				for label := range selectable(t, name, s, exported) {
					known[label] = true
				}
			}
			return nil
		})
		for _, text := range slices.Sorted(maps.Values(r.Annotations)) {
			for _, m := range used.FindAllStringSubmatch(text, -1) {
				if !known[m[1]] {
					t.Errorf("%s: an annotation has the label %s, which no metric of it has", name, m[1])
				}
			}
		}
		labelsOfSums(t, name, expr, known)
	}
}

// selectable checks a selector and returns the labels of its metric.
func selectable(t *testing.T, rule string, s *parser.VectorSelector, exported map[string]*dto.MetricFamily) map[string]bool {
	t.Helper()
	known := make(map[string]bool)
	family := exported[s.Name]
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(s.Name, suffix); ok && exported[base].GetType() == dto.MetricType_HISTOGRAM {
			family = exported[base]
			known[model.BucketLabel] = true
		}
	}
	if family == nil {
		t.Errorf("%s: nobody exports %s", rule, s.Name)
		return known
	}
	found := false
	for _, m := range family.GetMetric() {
		all := map[string]string{model.MetricNameLabel: s.Name}
		for _, l := range m.GetLabel() {
			known[l.GetName()] = true
			all[l.GetName()] = l.GetValue()
		}
		found = found || !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return !m.Matches(all[m.Name]) })
	}
	if !found {
		t.Errorf("%s: nothing matches %s", rule, s)
	}
	return known
}

// labelsOfSums checks that what is summed up by labels has them.
func labelsOfSums(t *testing.T, rule string, expr parser.Expr, known map[string]bool) {
	t.Helper()
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if sum, ok := n.(*parser.AggregateExpr); ok {
			for _, label := range sum.Grouping {
				if !known[label] {
					t.Errorf("%s: sums up by %s, which no metric of it has", rule, label)
				}
			}
		}
		return nil
	})
}

// scrape runs every program that the rules are about, and returns what they
// export.
func scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	ctx := blackbox.Deadline(t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	nozzle := blackbox.Launch(t, process.Nozzle, process.Command{Args: []string{
		"--addr", p.URL(0), "--subscription", "s", "--admin-addr", "127.0.0.1:0",
	}})
	listening, err := nozzle.Listening(ctx)
	if err != nil {
		t.Fatal(err)
	}
	canary := blackbox.Launch(t, process.Lgr, process.Command{Args: []string{
		"canary", "--addr", p.URL(0), "--doppler", p.Dopplers[0].Addrs[pipeline.GRPC], "--admin-addr", "127.0.0.1:0",
	}})
	metrics := regexp.MustCompile(`http://\S+/metrics`)
	blackbox.Poll(ctx, t, "the canary to tell where its metrics are", func() bool { return metrics.MatchString(canary.Log()) })
	all := make(map[string]*dto.MetricFamily)
	for _, url := range []string{
		fmt.Sprintf("http://%s/metrics", p.Dopplers[0].Addrs[pipeline.Admin]),
		fmt.Sprintf("http://%s/metrics", p.Controllers[0].Addrs[pipeline.Admin]),
		fmt.Sprintf("http://%s/metrics", listening[pipeline.Admin]),
		metrics.FindString(canary.Log()),
	} {
		reader := expfmt.NewTextParser(model.UTF8Validation)
		families, err := reader.TextToMetricFamilies(strings.NewReader(blackbox.Get(ctx, t, url, http.StatusOK)))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(all, families)
	}
	http.DefaultClient.CloseIdleConnections()
	if code, err := canary.Stop(ctx); err != nil || code != 143 {
		t.Errorf("canary: code %d, %v", code, err)
	}
	return all
}
