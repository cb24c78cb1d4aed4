//go:build race

package ring

// histories is smaller under the race detector, which is ten times slower.
const histories = 150
