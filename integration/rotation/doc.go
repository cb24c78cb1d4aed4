// Package rotation has a black-box test of certificates that are replaced while
// everything runs.
package rotation
