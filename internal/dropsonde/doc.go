// Package dropsonde turns envelopes of the new protocol into those of the old
// one and back: loggregator.v2.Envelope (v2) and the dropsonde
// events.Envelope (v1). It goes from bytes to bytes, never decodes an envelope
// as a whole, and allocates nothing but what the caller's slices need to grow.
//
// The rules are those of go-loggregator's package conversion, written down in
// protocol/02-conversion.md and held by its vectors in testdata. Where the old
// system loses an envelope without a word, this package delivers it:
//
//   - A log without payload becomes a LogMessage with an empty message. The
//     old system leaves the required field out and cannot encode the result.
//   - A timer without a request_id that is a UUID gets the UUID of zeros, for
//     the same reason.
//   - Bytes of a v1 string that are not UTF-8 become U+FFFD, one each, where
//     the string goes into a v2 string. The old system cannot encode the result.
//   - A v1 envelope may lack any required field except eventType; a field that
//     is missing has the value protobuf-go's getter returns.
//   - Numbers of a gauge out of the range of their v1 field give the same
//     result on every processor, the one of Go on amd64.
//   - The ValueMetrics of one gauge come in the order of their names.
//
// What is kept, because v1 clients know it: a method or peer type without a
// number is 0, metrics besides the five of a container are lost with that
// container's gauge, and events have no v1 form. Nor have, in the order of their
// names, those metrics of a gauge that would make it more than 16 MiB, for each
// repeats all of its tags.
package dropsonde
