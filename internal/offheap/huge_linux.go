package offheap

import "syscall"

// hugePage is the size of a huge page of most processors.
const hugePage = 2 << 20

// wantHuge asks for huge pages where at least one fits. Nothing depends on the
// answer.
func wantHuge(b []byte) {
	if len(b) >= hugePage {
		_ = syscall.Madvise(b, syscall.MADV_HUGEPAGE)
	}
}
