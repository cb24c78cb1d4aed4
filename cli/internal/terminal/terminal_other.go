//go:build !linux && !darwin

package terminal

import "os"

func size(*os.File) (columns, rows int, ok bool) { return 0, 0, false }

// Keys delivers no keys here: the view ends with an interrupt.
func Keys(*os.File) (keys <-chan byte, stop func(), err error) {
	return nil, func() {}, nil
}

// NotifyResize sends nothing here: the next drawing has the new size.
func NotifyResize(chan<- os.Signal) {}
