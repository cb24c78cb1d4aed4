// Package tokens has black-box tests of access while streams live: tokens that
// end and are renewed, tokens that are revoked, and leave that is withdrawn.
package tokens
