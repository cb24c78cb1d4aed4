//go:build !race

package blackbox

// Race tells whether the tests, and so the programs, have the race detector.
const Race = false
