//go:build !unix

package cli

import "os/exec"

// killAll leaves it at cmd itself here.
func killAll(*exec.Cmd) {}
