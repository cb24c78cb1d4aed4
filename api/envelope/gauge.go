package envelope

// containerShape is every bit that metricBit can return: such a gauge becomes
// a v1 ContainerMetric.
const containerShape = 1<<5 - 1

func metricBit(name []byte) uint8 {
	switch string(name) {
	case "cpu":
		return 1 << 0
	case "memory":
		return 1 << 1
	case "disk":
		return 1 << 2
	case "memory_quota":
		return 1 << 3
	case "disk_quota":
		return 1 << 4
	}
	return 0
}

// gauge reads a Gauge and merges it into the one before.
func (x *index) gauge(b []byte, i int) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		if k == keyMetrics {
			var start int
			if start, i = chunk(b, i); i < 0 || !x.metric(b[:i], start) {
				return false
			}
			continue
		}
		if i = skip(b, i, k); i < 0 {
			return false
		}
	}
	return true
}

// metric reads an entry of a gauge's metrics. It replaces an earlier one of
// the same name.
func (x *index) metric(b []byte, i int) bool {
	var name []byte
	var v gaugeValue
	for i < len(b) {
		var k uint64
		var start int
		switch k, i = key(b, i); {
		case i < 0:
			return false
		case k == keyMapKey:
			if start, i = text(b, i); i < 0 {
				return false
			}
			name = b[start:i]
		case k == keyMapValue:
			if start, i = chunk(b, i); i < 0 || !v.merge(b[:i], start) {
				return false
			}
		default:
			if i = skip(b, i, k); i < 0 {
				return false
			}
		}
	}
	x.names += hashName(name)
	if bit := metricBit(name); v.unit || v.number {
		x.metrics |= bit
	} else {
		x.metrics &^= bit
	}
	return true
}

// gaugeValue is what the container shape asks of a GaugeValue.
type gaugeValue struct {
	unit   bool // the unit is not empty
	number bool // the value is not 0
}

// merge reads a GaugeValue over the one before.
func (v *gaugeValue) merge(b []byte, i int) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		switch k {
		case keyUnit:
			var start int
			start, i = text(b, i)
			v.unit = start < i
		case keyNumber:
			if i = skipFixed(b, i, 8); i >= 0 {
				// Shifted, because minus zero is zero as well.
				v.number = le64(b[i-8:])<<1 != 0
			}
		default:
			i = skip(b, i, k)
		}
		if i < 0 {
			return false
		}
	}
	return true
}
