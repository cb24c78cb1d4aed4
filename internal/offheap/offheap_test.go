package offheap

import "testing"

func TestMap(t *testing.T) {
	for _, size := range []int{1, 4096, 3 << 20, 8 << 20} {
		b := Map(size)
		if len(b) != size {
			t.Errorf("%d bytes, want %d", len(b), size)
		}
		for i := 0; i < size; i += 4096 {
			if b[i] != 0 {
				t.Fatalf("byte %d of %d is %d", i, size, b[i])
			}
			b[i] = 1
		}
		b[size-1] = 2
		Unmap(b)
	}
}

func TestUnmapLeavesHeapMemoryAlone(t *testing.T) {
	b := make([]byte, 3<<20)
	Unmap(b)
	b[0], b[len(b)-1] = 1, 2
}
