package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// Suite runs all modes, each for as short as it still says something. Results
// so far come with an error too.
func Suite(ctx context.Context, o Options) ([]Result, error) {
	steps := []struct {
		run func(context.Context, Options) ([]Result, error)
		set func(*Options)
	}{
		{Light, func(o *Options) { o.For = 5 * time.Second }},
		{Max, func(o *Options) { o.For = 5 * time.Second }},
		{FlatOut, func(o *Options) { o.For = 30 * time.Second }},
		{Max, func(o *Options) { o.For, o.TLS = 3*time.Second, true }},
		{Throttled, func(o *Options) { o.Rate, o.For = 50_000, 8*time.Second }},
		{Singles, func(o *Options) { o.For = 4 * time.Second }},
		{FlatOut, func(o *Options) { o.For, o.Plan.Shape = 4*time.Second, load.Random }},
		{Tails, func(o *Options) { o.For = 5 * time.Second }},
		{Idle, func(o *Options) { o.Tails, o.For = 10_000, 3*time.Second }},
	}
	var all []Result
	for _, step := range steps {
		options := o
		step.set(&options)
		results, err := step.run(ctx, options)
		for i := range results {
			results[i].Name += options.suffix()
		}
		if all = append(all, results...); err != nil {
			return all, err
		}
	}
	return all, nil
}

// suffix tells of what differs from the standard.
func (o Options) suffix() string {
	suffix := ""
	if o.TLS {
		suffix += ", TLS"
	}
	if o.Plan.Shape != load.Reference {
		suffix += ", random sizes"
	}
	return suffix
}

// profiled measures while each service profiles its CPU, if that is asked for.
func (o Options) profiled(ctx context.Context, b *Bench, measure func() (Result, error)) (Result, error) {
	if o.Profiles == "" {
		return measure()
	}
	var all sync.WaitGroup
	for _, s := range append(b.pipeline.Dopplers, b.pipeline.Controllers...) {
		all.Go(func() {
			if err := o.profile(ctx, s); err != nil {
				o.sayf("no profile of %s: %v", s.Name, err)
			}
		})
	}
	r, err := measure()
	all.Wait()
	return r, err
}

func (o Options) profile(ctx context.Context, s *pipeline.Service) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.Addrs[pipeline.Admin], max(1, int(o.For.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	file, err := os.Create(filepath.Join(o.Profiles, s.Name+".pprof"))
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, resp.Body); err != nil {
		return err
	}
	return file.Close()
}
