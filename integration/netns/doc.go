// Package netns makes networks for tests out of Linux network namespaces. Every
// Host is a namespace with one TUN device, and this process, a host itself, is
// the router between them. So a fault of the network is a decision of the test:
// packets get lost, in one direction or in both, or are late, and no socket
// hears of it. It needs neither netem nor a packet filter of the kernel.
package netns

import "errors"

// ErrOutside says that this process has no network of its own. See Inside.
var ErrOutside = errors.New("not in a network namespace of its own: this needs Linux, /dev/net/tun, " +
	"and root or user namespaces")

// insideKey is set in the environment of a program that Inside has started.
const insideKey = "LGR_INSIDE_NETNS"
