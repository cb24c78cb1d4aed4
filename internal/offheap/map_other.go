//go:build !unix

package offheap

// Map returns size bytes of zeroed memory; here it is of the heap.
func Map(size int) []byte { return make([]byte, size) }

// Unmap gives back what Map returned; b must not be used any more.
func Unmap([]byte) {}
