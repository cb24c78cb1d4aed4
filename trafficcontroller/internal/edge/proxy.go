package edge

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// Sizes of PROXY headers, in bytes.
const (
	shortest  = 15      // "PROXY UNKNOWN" and the end of its line
	longestV1 = 107     // by the specification
	fixedV2   = 16      // before what may vary
	longestV2 = 4 << 10 // addresses and what proxies like to add
)

var signatureV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

var errNoHeader = errors.New("no PROXY header")

// readPROXY reads a PROXY header, and not a byte more, so that what follows can
// be read from the connection itself. It returns whom the proxy speaks for; the
// zero value when it speaks for itself, or does not know.
func readPROXY(r io.Reader) (netip.AddrPort, error) {
	head, err := headerBytes(r)
	if err != nil {
		return netip.AddrPort{}, err
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(head), len(head)))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("PROXY header: %w", err)
	}
	if h.Command.IsLocal() {
		return netip.AddrPort{}, nil
	}
	source, _, ok := h.TCPAddrs()
	if !ok {
		return netip.AddrPort{}, nil
	}
	return addrPort(source), nil
}

// headerBytes reads as many bytes as a header has. It allocates no more for what
// the header only claims.
func headerBytes(r io.Reader) ([]byte, error) {
	head := make([]byte, shortest, longestV1)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, signatureV2):
		return restOfV2(r, head)
	case bytes.HasPrefix(head, []byte("PROXY ")):
		return restOfV1(r, head)
	}
	return nil, errNoHeader
}

// restOfV1 reads to the end of the line, a byte at a time.
func restOfV1(r io.Reader, head []byte) ([]byte, error) {
	var one [1]byte
	for head[len(head)-1] != '\n' {
		if len(head) == longestV1 {
			return nil, fmt.Errorf("PROXY header: over %d bytes", longestV1)
		}
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return nil, fmt.Errorf("PROXY header: %w", err)
		}
		head = append(head, one[0])
	}
	return head, nil
}

// restOfV2 reads the last byte of the length, and as much as it says.
func restOfV2(r io.Reader, head []byte) ([]byte, error) {
	head = head[:fixedV2]
	if _, err := io.ReadFull(r, head[shortest:]); err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	n := int(binary.BigEndian.Uint16(head[14:]))
	if n > longestV2 {
		return nil, fmt.Errorf("PROXY header: %d bytes follow, the limit is %d", n, longestV2)
	}
	whole := append(make([]byte, 0, fixedV2+n), head...)[:fixedV2+n]
	if _, err := io.ReadFull(r, whole[fixedV2:]); err != nil {
		return nil, fmt.Errorf("PROXY header: %w", err)
	}
	return whole, nil
}
