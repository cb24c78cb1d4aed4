//go:build race

package egress

// pathHistories is smaller under the race detector, which is ten times slower.
const pathHistories = 500
