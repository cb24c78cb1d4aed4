//go:build !unix

package recent

func mapMemory(size int) []byte { return make([]byte, size) }

func unmapMemory([]byte) {}
