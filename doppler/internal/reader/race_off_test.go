//go:build !race

package reader

const (
	groupHistories = 7000
	linkHistories  = 4000
)
