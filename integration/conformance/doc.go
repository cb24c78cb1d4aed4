// Package conformance replays what was observed on the old system, the files
// of vectors, against the running programs: requests as bytes on a socket,
// envelopes through Doppler and Traffic Controller, questions to UAA and Cloud
// Controller. `make conformance` prints a line per case:
//
//	ok        as observed, in every byte that is looked at
//	improved  different on purpose; the reason is in improvements, and in
//	          docs/compatibility.md
//	FAIL      different otherwise
//
// A vector lies in the module that is closest to it, and once.
package conformance
