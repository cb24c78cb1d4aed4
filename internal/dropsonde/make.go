package dropsonde

// AppendCounterEvent appends a complete v1 envelope with a CounterEvent.
// Timestamp is in unix nanoseconds. Old servers tell a slow client of its loss
// with one from origin doppler named TruncatingBuffer.DroppedMessages.
func AppendCounterEvent(dst []byte, origin, name string, delta, total uint64, timestamp int64) []byte {
	dst = appendHead(dst, origin, typeCounterEvent, timestamp)
	dst, at := open(dst, v1CounterEvent)
	dst = appendBytes(dst, 1<<3|wireBytes, name)
	dst = appendNumber(dst, 2<<3|wireVarint, delta)
	dst = appendNumber(dst, 3<<3|wireVarint, total)
	return shut(dst, at)
}

// AppendLogMessage appends a complete v1 envelope with a LogMessage. Err makes
// it ERR instead of OUT; timestamp is in unix nanoseconds.
func AppendLogMessage(
	dst []byte, origin, message, appID, sourceType, sourceInstance string, err bool, timestamp int64,
) []byte {
	kind := uint64(messageOut)
	if err {
		kind = messageErr
	}
	dst = appendHead(dst, origin, typeLogMessage, timestamp)
	dst, at := open(dst, v1LogMessage)
	dst = appendBytes(dst, 1<<3|wireBytes, message)
	dst = appendNumber(dst, 2<<3|wireVarint, kind)
	dst = appendNumber(dst, 3<<3|wireVarint, uint64(timestamp))
	dst = appendBytes(dst, 4<<3|wireBytes, appID)
	dst = appendBytes(dst, 5<<3|wireBytes, sourceType)
	dst = appendBytes(dst, 6<<3|wireBytes, sourceInstance)
	return shut(dst, at)
}
