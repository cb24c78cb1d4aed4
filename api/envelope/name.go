package envelope

import "hash/crc64"

// namedClasses have names that deterministic routing goes by.
const namedClasses ClassMask = 1<<Counter | 1<<ContainerGauge | 1<<Gauge

var nameTable = crc64.MakeTable(crc64.ECMA)

// NameHash is what deterministic routing goes by (protocol/01, Doppler v2
// routing), folded to 16 bits: of a trusted counter the CRC-64 (ECMA) of its
// name, of a gauge the sum of those of its metrics, in whatever order they come.
// It is the same in every process. A name that a later field replaces counts as
// well; no encoder writes such.
func NameHash(env []byte) uint16 {
	var sum uint64
	MatchNameFunc(env, func(name []byte) bool {
		sum += crc64.Checksum(name, nameTable)
		return false
	})
	sum ^= sum >> 32
	return uint16(sum ^ sum>>16)
}
