//go:build !linux

package bench

import "context"

// bareRelay is measured on Linux only.
func bareRelay(context.Context) (nanos float64, err error) { return 0, nil }
