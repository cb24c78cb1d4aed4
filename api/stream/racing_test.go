//go:build race

package stream

const racing = 10
