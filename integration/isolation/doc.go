// Package isolation has a black-box test of a property: whatever a user asks for,
// in whatever way, no byte comes of an app that is not theirs.
package isolation
