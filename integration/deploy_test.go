package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/process"
)

// understood starts a program with the flags of a deployment file and a flag
// that does not exist: when that is all it complains about, the rest is right.
func understood(ctx context.Context, t *testing.T, name string, args []string) {
	t.Helper()
	p := launch(t, name, process.Command{Args: append(slices.Clone(args), "--no-such-flag")})
	code, err := p.Wait(ctx)
	if err != nil || code != 2 {
		t.Fatalf("%s %q: code %d, %v:\n%s", name, args, code, err, p.Log())
	}
	if faults := p.Log(); !strings.Contains(faults, "1 fault ") || !strings.Contains(faults, "no-such-flag") {
		t.Errorf("%s %q has faults:\n%s", name, args, faults)
	}
}

func TestComposeFile(t *testing.T) {
	ctx := deadline(t)
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	options, err := cli.NewProjectOptions([]string{"../deploy/compose/compose.yaml"}, cli.WithProfiles([]string{"*"}))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, s := range project.Services {
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Error(err)
		}
		if len(s.Entrypoint) == 0 {
			continue // lgr, which reads what it is given
		}
		found[s.Entrypoint[0]] = true
		understood(ctx, t, s.Entrypoint[0], here(s.Command, "/certs", certs))
		checkMounts(t, project, s)
	}
	for _, name := range []string{process.Doppler, process.TrafficController, process.Nozzle} {
		if !found[name] {
			t.Errorf("no service runs %s", name)
		}
	}
}

// here replaces a directory of the image by one of this machine.
func here(args []string, dir, by string) []string {
	var all []string
	for _, arg := range args {
		all = append(all, strings.ReplaceAll(arg, "="+dir+"/", "="+by+"/"))
	}
	return all
}

// checkMounts checks that every file a service is told of lies in a volume.
func checkMounts(t *testing.T, project *types.Project, s types.ServiceConfig) {
	t.Helper()
	for _, arg := range s.Command {
		_, path, ok := strings.Cut(arg, "=/")
		if !ok {
			continue
		}
		path = "/" + path
		if !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return strings.HasPrefix(path, v.Target+"/") }) {
			t.Errorf("service %s uses %s, which is in none of its volumes", s.Name, path)
		}
	}
	for _, v := range s.Volumes {
		if _, ok := project.Volumes[v.Source]; !ok {
			t.Errorf("service %s uses the volume %q, which is not declared", s.Name, v.Source)
		}
	}
}

func TestSystemdUnits(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	for _, name := range []string{process.Doppler, process.TrafficController, process.Nozzle} {
		unit, err := os.ReadFile("../deploy/systemd/" + name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		const installed = "/usr/local/bin/"
		start := installed + name + " --config /etc/loggregator/" + name + ".yaml"
		if !bytes.Contains(unit, []byte("ExecStart="+start+"\n")) {
			t.Errorf("%s.service does not start %q", name, start)
		}
		runnable := bytes.ReplaceAll(unit, []byte(installed), []byte(blackbox.Programs.Path("")+"/"))
		if err := os.WriteFile(filepath.Join(dir, name+".service"), runnable, 0o600); err != nil {
			t.Fatal(err)
		}
		understood(ctx, t, name, []string{"--config", withCredentials(t, name, unit)})
	}
	verifier, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("NOT VERIFIED by systemd itself: there is no systemd-analyze on this machine")
		return
	}
	units, err := filepath.Glob(dir + "/*.service")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, verifier, append([]string{"verify"}, units...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// withCredentials returns a copy of a service's configuration file in which
// what systemd hands over lies on this machine.
func withCredentials(t *testing.T, name string, unit []byte) string {
	t.Helper()
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile("../deploy/systemd/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(conf)
	for _, credential := range regexp.MustCompile(`LoadCredential=(\S+):/etc/loggregator/(\S+)`).FindAllStringSubmatch(string(unit), -1) {
		handed := "/run/credentials/" + name + ".service/" + credential[1]
		if !strings.Contains(text, handed) {
			t.Errorf("%s.yaml does not use %s", name, handed)
		}
		text = strings.ReplaceAll(text, handed, filepath.Join(certs, credential[2]))
	}
	if strings.Contains(text, "/run/credentials") {
		t.Errorf("%s.service does not hand over all that its configuration uses:\n%s", name, text)
	}
	path := filepath.Join(t.TempDir(), name+".yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
