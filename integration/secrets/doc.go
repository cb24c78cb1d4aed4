// Package secrets has a black-box test that looks for secrets in everything that
// the programs print.
package secrets
