// Package alerts holds the alert rules of deploy/alerts to what the built
// programs export, and to what they should fire of. Only it needs Prometheus.
package alerts

import (
	"log/slog"
	"os"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.Nozzle, process.Lgr))
}

// rules are those of the file, by name, as Prometheus itself reads them.
func rules(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile("../../deploy/alerts/loggregator.yml", false, model.UTF8Validation,
		parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	all := make(map[string]rulefmt.Rule)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if _, twice := all[r.Alert]; twice || r.Alert == "" {
				t.Errorf("rule %q of %s: twice, or no alert", r.Alert, g.Name)
			}
			all[r.Alert] = r
		}
	}
	return all
}
