//go:build race

package reader

// Random histories to run; fewer under the race detector, which is ten times
// slower.
const (
	groupHistories = 300
	linkHistories  = 200
)
