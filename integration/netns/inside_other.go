//go:build !linux

package netns

// Inside runs run: there are no network namespaces here.
func Inside(run func() int) int { return run() }
