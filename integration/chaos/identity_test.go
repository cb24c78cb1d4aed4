package chaos

import (
	"fmt"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/load"
)

// epoch is one life of a Doppler.
type epoch struct {
	doppler string
	number  uint64
}

// identities knows which envelope was delivered as what: one envelope has one
// identity, for ever, and one identity has one envelope. The zero value is
// empty.
type identities struct {
	logs map[epoch][]uint64 // by offset: the envelope and 1
}

const logStep = 1 << 16

// add takes note of an envelope, also in all, and tells whether it was delivered
// before.
func (s *identities) add(id nozzle.ID, packed uint64, all *load.Set) (again bool, err error) {
	if s.logs == nil {
		s.logs = make(map[epoch][]uint64)
	}
	at := epoch{id.Doppler, id.Epoch}
	for uint64(len(s.logs[at])) <= id.Offset {
		s.logs[at] = append(s.logs[at], make([]uint64, logStep)...)
	}
	switch known := &s.logs[at][id.Offset]; {
	case *known == packed+1:
		return true, nil
	case *known != 0:
		return false, fmt.Errorf("%v is %+v, and was %+v", id, load.Unpack(packed), load.Unpack(*known-1))
	case !all.Add(load.Unpack(packed)):
		return false, fmt.Errorf("%+v came as %v, and before under another identity", load.Unpack(packed), id)
	default:
		*known = packed + 1
		return false, nil
	}
}
