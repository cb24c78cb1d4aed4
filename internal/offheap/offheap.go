// Package offheap gets memory that the garbage collector does not look after:
// a ring of gigabytes would else count as live heap and let garbage pile up to
// the same size.
package offheap
