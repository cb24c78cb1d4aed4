package envelope

// The functions in this file read envelopes that a scan has accepted. They do
// not check strings again; on other bytes they return something, without
// meaning, and do not panic.

// Timestamp returns the timestamp of a trusted envelope, in unix nanoseconds.
func Timestamp(env []byte) int64 {
	var t int64
	for i := 0; i < len(env); {
		var k uint64
		if k, i = key(env, i); i < 0 {
			break
		}
		if k == keyTimestamp {
			var v uint64
			v, i = varint(env, i)
			t = int64(v)
		} else {
			i = skip(env, i, k)
		}
		if i < 0 {
			break
		}
	}
	return t
}

// SourceID returns the source id of a trusted envelope. The slice shares the
// memory of env.
func SourceID(env []byte) []byte {
	return lastChunk(env, keySource)
}

// lastChunk returns the bytes of the last field of a message with key want.
func lastChunk(b []byte, want uint64) []byte {
	var last []byte
	for i := 0; i < len(b); {
		var k uint64
		if k, i = key(b, i); i < 0 {
			break
		}
		if k == want {
			var start int
			if start, i = chunk(b, i); i < 0 {
				break
			}
			last = b[start:i:i]
		} else if i = skip(b, i, k); i < 0 {
			break
		}
	}
	return last
}

// MatchName reports whether a trusted envelope is a counter or a timer with
// one of the names, or a gauge with a metric of one of the names. Logs and
// events have no name.
func MatchName(env []byte, names []string) bool {
	return MatchNameFunc(env, func(name []byte) bool { return contains(names, name) })
}

// MatchNameFunc is MatchName by a function. It may be asked for a name that a
// later field replaces, and must not keep the slice.
func MatchNameFunc(env []byte, named func([]byte) bool) bool {
	var message uint64
	var match bool
	for i := 0; i < len(env); {
		k, start := key(env, i)
		if start < 0 {
			break
		}
		if i = skip(env, start, k); i < 0 {
			break
		}
		switch k {
		case keyLog, keyCounter, keyGauge, keyTimer, keyEvent:
		default:
			continue
		}
		if message != k {
			// The name is empty until a field says otherwise; a gauge has
			// no metric yet.
			message, match = k, (k == keyCounter || k == keyTimer) && named(nil)
		}
		start, end := chunk(env, start)
		match = matchMessage(env[start:end], k, named, match)
	}
	return match
}

// matchMessage merges the message of field k into the one before, which
// matched or not.
func matchMessage(b []byte, k uint64, named func([]byte) bool, match bool) bool {
	for i := 0; i < len(b); {
		f, start := key(b, i)
		if start < 0 {
			break
		}
		if i = skip(b, start, f); i < 0 {
			break
		}
		if f != keyName {
			continue
		}
		start, end := chunk(b, start)
		switch k {
		case keyCounter, keyTimer:
			match = named(b[start:end])
		case keyGauge: // keyName is keyMetrics here
			match = match || named(lastChunk(b[start:end], keyMapKey))
		}
	}
	return match
}

func contains(names []string, name []byte) bool {
	for _, n := range names {
		if n == string(name) {
			return true
		}
	}
	return false
}

// AppendNames appends the names of a trusted envelope: that of a counter or
// timer, or those of a gauge's metrics, a name as often as it is there. The
// slices share the memory of env.
func AppendNames(dst [][]byte, env []byte) [][]byte {
	begin := len(dst)
	var message uint64
	for i := 0; i < len(env); {
		k, start := key(env, i)
		if start < 0 {
			break
		}
		if i = skip(env, start, k); i < 0 {
			break
		}
		switch k {
		case keyLog, keyCounter, keyGauge, keyTimer, keyEvent:
		default:
			continue
		}
		if message != k {
			message, dst = k, dst[:begin]
			if k == keyCounter || k == keyTimer {
				dst = append(dst, nil)
			}
		}
		start, end := chunk(env, start)
		dst = appendNames(dst, env[start:end], k)
	}
	return dst
}

// appendNames merges the names of the message of field k into the ones before.
func appendNames(dst [][]byte, b []byte, k uint64) [][]byte {
	for i := 0; i < len(b); {
		f, start := key(b, i)
		if start < 0 {
			break
		}
		if i = skip(b, start, f); i < 0 {
			break
		}
		if f != keyName {
			continue
		}
		start, end := chunk(b, start)
		switch k {
		case keyCounter, keyTimer:
			dst[len(dst)-1] = b[start:end]
		case keyGauge: // keyName is keyMetrics here
			dst = append(dst, lastChunk(b[start:end], keyMapKey))
		}
	}
	return dst
}
