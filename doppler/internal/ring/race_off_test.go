//go:build !race

package ring

const histories = 2500
