package edge

import (
	"fmt"
	"net/http"
)

// maxTarget is how long path and query may be however large heads may be.
const maxTarget = 512 << 10

// HeadRoom is what the server has to take of a request's first line and headers
// (http.Server.MaxHeaderBytes): more than the limit, so that whoever is over it can be
// told by how much, and logged; and not much more. Beyond it net/http refuses, and
// names nothing.
func (e *Edge) HeadRoom() int { return 2 * int(e.cfg.MaxHeaderBytes) }

// headFault says which limit a request's first line and headers are over.
func (e *Edge) headFault(r *http.Request) (status int, fault string) {
	limit := int(e.cfg.MaxHeaderBytes)
	if n, limit := len(r.RequestURI), min(limit, maxTarget); n > limit {
		return http.StatusRequestURITooLong, fmt.Sprintf("path and query have %d bytes, the limit is %d", n, limit)
	}
	if n := headBytes(r); n > limit {
		return http.StatusRequestHeaderFieldsTooLarge,
			fmt.Sprintf("first line and headers have %d bytes, the limit is %d (--max-header-bytes)", n, limit)
	}
	return 0, ""
}

// headBytes is how long first line and headers are, as HTTP/1.1 writes them at the
// shortest.
func headBytes(r *http.Request) int {
	n := len(r.Method) + len(" ") + len(r.RequestURI) + len(" ") + len(r.Proto) + len("\r\n") +
		len("Host: ") + len(r.Host) + len("\r\n\r\n")
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(": ") + len(v) + len("\r\n")
		}
	}
	return n
}
