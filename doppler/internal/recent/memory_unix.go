//go:build unix

package recent

import "syscall"

// mapMemory returns zeroed memory outside the garbage collector's heap, or of
// the heap where the system refuses. Pages are taken when first written.
func mapMemory(size int) []byte {
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, size)
	}
	return b
}

// unmapMemory gives back what mapMemory returned; heap memory is refused by
// package syscall and left to the collector.
func unmapMemory(b []byte) { _ = syscall.Munmap(b) }
