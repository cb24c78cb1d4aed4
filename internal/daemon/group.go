package daemon

import (
	"context"
	"errors"
	"fmt"
)

// Group runs the parts of a service together. The order of Add is the order
// of starting: the reader's end first, so that nothing is taken in before it
// can be served. Stopping is the reverse: the writer's end first, so that what
// was taken in is still served.
type Group struct{ actors []actor }

type actor struct {
	name string
	run  func(context.Context) error
}

// Add appends an actor. run must block until its context ends, then finish
// what it has to and return; that is the moment the actor before it is asked
// to stop.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.actors = append(g.actors, actor{name, run})
}

// Run starts every actor and blocks until all have returned. When ctx ends or
// any actor returns, with an error or without, the actors are stopped one
// after another, the last added first. The result joins the errors of all
// actors, each with the actor's name; context.Canceled is none. Values of ctx
// reach the actors, its end does not: each has its own turn.
func (g *Group) Run(ctx context.Context) error {
	var (
		base   = context.WithoutCancel(ctx)
		cancel = make([]context.CancelCauseFunc, len(g.actors))
		done   = make([]chan error, len(g.actors))
		ended  = make(chan struct{}, len(g.actors))
	)
	for i, a := range g.actors {
		done[i] = make(chan error, 1)
		var own context.Context
		own, cancel[i] = context.WithCancelCause(base)
		go func() {
			done[i] <- a.run(own)
			ended <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	var errs []error
	for i := len(g.actors) - 1; i >= 0; i-- {
		cancel[i](context.Cause(ctx))
		if err := <-done[i]; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", g.actors[i].name, err))
		}
	}
	return errors.Join(errs...)
}
