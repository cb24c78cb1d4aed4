//go:build !race

package reader

const (
	groupHistories = 10_000
	linkHistories  = 5000
)
