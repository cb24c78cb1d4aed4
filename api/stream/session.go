package stream

import (
	"crypto/rand"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Session names one reader across its connections. A Doppler that is dialed by
// a session it still has a connection of ends the older one at once: behind a
// path that is dead what was handed out there would wait for its timeout.
type Session struct {
	ID   string // chosen at random; at most 64 letters, digits, - and _
	Turn uint64 // grows with each connection
}

// NewSession returns a session that nobody else has.
func NewSession() Session { return Session{ID: rand.Text()} }

const (
	maxSessionID = 64
	attemptBits  = 20
	maxTurn      = math.MaxUint64 >> attemptBits
)

// ParseSession reads what String wrote; an empty string is no session.
func ParseSession(text string) (s Session, err error) {
	if text == "" {
		return s, nil
	}
	id, turn, ok := strings.Cut(text, ":")
	if !ok || id == "" || len(id) > maxSessionID || strings.Trim(id, sessionLetters) != "" {
		return s, fmt.Errorf("session %.100q is not an id of 1 to %d letters, digits, - and _, a colon and a number", text, maxSessionID)
	}
	if s.Turn, err = strconv.ParseUint(turn, 10, 64); err != nil {
		return s, fmt.Errorf("session %.100q: its turn is not a number from 0 to 2^64-1", text)
	}
	s.ID = id
	return s, nil
}

const sessionLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// String is how a session stands in a query, as session; empty for none.
func (s Session) String() string {
	if s.ID == "" {
		return ""
	}
	return s.ID + ":" + strconv.FormatUint(s.Turn, 10)
}

// Attempt is the session as a relay shows it, which itself dials for a reader
// more than once. A later turn of the reader is later than all of them.
func (s Session) Attempt(n uint64) Session {
	s.Turn = min(s.Turn, maxTurn)<<attemptBits | min(n, 1<<attemptBits-1)
	return s
}
