//go:build !race

package stream

const racing = 0
