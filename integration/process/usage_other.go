//go:build !linux

package process

import (
	"errors"
	"syscall"
)

var errOnlyLinux = errors.New("what a process takes is read from /proc, which only Linux has")

func dieWithParent() *syscall.SysProcAttr { return nil }

// Usage always fails.
func (p *Process) Usage() (Usage, error) { return Usage{}, errOnlyLinux }

// UsageOf always fails.
func UsageOf(int) (Usage, error) { return Usage{}, errOnlyLinux }

// ResetPeak always fails.
func (p *Process) ResetPeak() error { return errOnlyLinux }
