// Package soak runs the built programs under steady load for a long time,
// while clients of all kinds come and go by the ten thousand, politely or not.
// What they take must not grow, and the readers that stay get everything.
//
// LGR_SOAK is how long, 2 minutes unless it says otherwise: `make soak` takes 15
// minutes, or 5 in CI.
package soak
