package envelope

import "hash/crc64"

var nameTable = crc64.MakeTable(crc64.ECMA)

// hashName is the hash of a name. Names are short: crc64 would prepare for long
// ones.
func hashName(name []byte) uint64 {
	sum := ^uint64(0)
	for _, c := range name {
		sum = nameTable[byte(sum)^c] ^ sum>>8
	}
	return ^sum
}

// foldName makes 16 bits of a hash.
func foldName(sum uint64) uint16 {
	sum ^= sum >> 32
	return uint16(sum ^ sum>>16)
}
