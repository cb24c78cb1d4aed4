package dropsonde

// ContainerInstance returns the instance index of a v1 envelope that AppendV1
// has made, if it is a ContainerMetric.
func ContainerInstance(v1 []byte) (index int32, ok bool) {
	metric, ok := lastBytes(v1, v1ContainerMetric)
	if !ok {
		return 0, false
	}
	for i := 0; i < len(metric); {
		var f field
		if f, i = next(metric, i); i < 0 {
			return 0, false
		}
		if f.key == 2<<3|wireVarint {
			index = int32(f.value)
		}
	}
	return index, true
}

// lastBytes returns the last field with that key.
func lastBytes(b []byte, key uint64) (value []byte, ok bool) {
	for i := 0; i < len(b); {
		var f field
		if f, i = next(b, i); i < 0 {
			return nil, false
		}
		if f.key == key {
			value, ok = f.of(b), true
		}
	}
	return value, ok
}
