//go:build !linux

package stream

// tryWrite is for Linux only; elsewhere everything is copied and written with
// a deadline.
func (c *Conn) tryWrite([][]byte) (int, error) { return 0, nil }
