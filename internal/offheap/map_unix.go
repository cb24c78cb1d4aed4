//go:build unix

package offheap

import "syscall"

// Map returns size bytes of zeroed memory outside the garbage collector's heap,
// or of the heap where the system refuses. Pages are taken when first written;
// where the system has huge ones it is asked for them, because to take a page
// costs about as much as to take in ten envelopes. Whoever maps has to Unmap.
// It may be called concurrently.
func Map(size int) []byte {
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, size)
	}
	wantHuge(b)
	return b
}

// Unmap gives back what Map returned; b must not be used any more. Heap memory
// is refused by package syscall and left to the collector.
func Unmap(b []byte) { _ = syscall.Munmap(b) }
