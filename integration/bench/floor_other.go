//go:build !linux

package bench

import (
	"context"
	"crypto/tls"
)

// bareRelay is measured on Linux only.
func bareRelay(context.Context, *tls.Config, *tls.Config) (nanos float64, err error) { return 0, nil }

// relayTLS likewise.
func relayTLS(context.Context) (nanos float64, err error) { return 0, nil }
