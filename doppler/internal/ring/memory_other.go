//go:build !unix

package ring

func mapMemory(size int) []byte { return make([]byte, size) }

func unmapMemory([]byte) {}
