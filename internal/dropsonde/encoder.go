package dropsonde

// Encoder turns envelopes of one protocol into the other. It holds only
// scratch space between calls, no reference to an envelope. The zero value is
// ready; it must not be used concurrently.
type Encoder struct {
	// DeprecatedTags makes AppendV2 write deprecated_tags instead of tags,
	// for consumers that did not ask for preferred tags. Set it before use.
	DeprecatedTags bool

	// Of the envelope being turned.
	env       []byte // all spans are in it unless they say otherwise
	tags      tagList
	timestamp int64

	v2 v2Fields
	v1 v1Fields

	text []byte // what was made for the envelope and is not in it
}

// reset takes the next envelope; reset(nil) lets go of the last.
func (e *Encoder) reset(env []byte) {
	e.env, e.timestamp, e.text = env, 0, e.text[:0]
	e.tags.reset()
}
