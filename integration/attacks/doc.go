// Package attacks does to a built Traffic Controller what strangers on the
// internet do, on loopback and within bounds, over TLS and without: nobody who
// reads may notice, and its memory stays within bounds.
package attacks
