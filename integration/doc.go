// Package integration tests the built programs from outside, as processes on
// loopback: one test for each line of what the pipeline has to show. Nothing
// here measures time; a test fails when something is lost, doubled, out of
// order or not said.
//
// The programs are built once per run, with the race detector when the tests
// are. With LGR_FULL=1 the tests run at the rates and for the times the design
// names, which takes minutes and an idle machine.
package integration
