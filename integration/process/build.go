// Package process builds our programs and runs them as processes: what the
// black-box tests and the load tool stand on. A Process is started, watched
// (addresses, log, CPU time, memory), signalled and waited for.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs are the names Build knows, each with the directory, below the top of
// the repository, that `go build` is called in, and the package there.
var programs = map[string]struct{ dir, pkg string }{
	Doppler:           {"doppler", "./cmd/doppler"},
	TrafficController: {"trafficcontroller", "./cmd/trafficcontroller"},
	Nozzle:            {"firehose-nozzle/cmd/firehose-nozzle", "."},
	Lgr:               {"cli", "./cmd/lgr"},
	LoadTool:          {"integration", "./cmd/loadtool"},
	FakeCF:            {"integration", "./cmd/fakecf"},
	RealClient:        {"integration/clients", "./cmd/realclient"},
}

// Names of the programs.
const (
	Doppler           = "doppler"
	TrafficController = "trafficcontroller"
	Nozzle            = "firehose-nozzle"
	Lgr               = "lgr"
	LoadTool          = "loadtool"
	FakeCF            = "fakecf"
	RealClient        = "realclient"
)

// Binaries is a directory of built programs.
type Binaries struct{ dir string }

// Path of a program.
func (b Binaries) Path(name string) string { return filepath.Join(b.dir, name) }

// Prebuilt uses the programs that lie in dir already.
func Prebuilt(dir string) Binaries { return Binaries{dir} }

// Build builds the named programs into dir, with the race detector if race is
// set. It blocks for as long as the compiler needs.
func Build(ctx context.Context, dir string, race bool, names ...string) (Binaries, error) {
	top, err := top()
	if err != nil {
		return Binaries{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Binaries{}, fmt.Errorf("find %s: %w", dir, err)
	}
	for _, name := range names {
		p, ok := programs[name]
		if !ok {
			return Binaries{}, fmt.Errorf("no program is called %q", name)
		}
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if race {
			args = append(args, "-race")
		}
		cmd := exec.CommandContext(ctx, "go", append(args, p.pkg)...)
		cmd.Dir = filepath.Join(top, p.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return Binaries{}, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return Binaries{dir}, nil
}

// top finds the top of the repository above the working directory.
func top() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.work here or above: run this inside the repository")
		}
		dir = parent
	}
}
