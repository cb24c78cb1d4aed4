//go:build !race

package egress

const pathHistories = 10_000
