// Package chaos breaks things under load: connections, processes, readers, the
// network. What was promised has to hold all the same, and an envelope that
// nobody can explain, missing or doubled, fails the test that sees it.
//
// Where chance decides, the test prints its seed; LGR_SEED repeats it.
package chaos
