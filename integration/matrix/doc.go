// Package matrix has a black-box test of access: every kind of token, good and
// forged, sent in every way, on every path, for apps that are the user's and that
// are not, with UAA and Cloud Controller well and broken in every way. What has to
// come of each cell is worked out from what is documented, not from the program.
package matrix
