//go:build unix && !linux

package offheap

func wantHuge([]byte) {}
