package nozzle

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an Error is.
type Code int

// The codes of errors.
const (
	// CodeUnknown is the code of an error that is not an *Error.
	CodeUnknown Code = iota
	// CodeInvalidArgument: the configuration, or what the server was asked
	// for with it, makes no sense. The message says what and what would.
	CodeInvalidArgument
	// CodeUnauthenticated: the server does not know who asks (401).
	CodeUnauthenticated
	// CodeForbidden: the server knows, and does not allow it (403).
	CodeForbidden
	// CodeNotFound: there is no such thing at this address (404).
	CodeNotFound
	// CodeLimit: a limit of the server is reached; the message says which.
	CodeLimit
	// CodeProtocol: the two sides do not understand each other.
	CodeProtocol
	// CodeUnavailable: there is no connection, and the retries that the
	// configuration allows are used up.
	CodeUnavailable
	// CodeClosed: the stream was closed by its owner.
	CodeClosed
)

// String returns the code in lower case.
func (c Code) String() string {
	switch c {
	case CodeUnknown:
		return "unknown"
	case CodeInvalidArgument:
		return "invalid argument"
	case CodeUnauthenticated:
		return "unauthenticated"
	case CodeForbidden:
		return "forbidden"
	case CodeNotFound:
		return "not found"
	case CodeLimit:
		return "limit reached"
	case CodeProtocol:
		return "protocol error"
	case CodeUnavailable:
		return "unavailable"
	case CodeClosed:
		return "closed"
	}
	return fmt.Sprintf("code(%d)", int(c))
}

// Error is every error of this package that is not the end of a caller's
// context. Find it with errors.As, or its code with CodeOf.
type Error struct {
	// Code is the kind of failure.
	Code Code
	// Status is the HTTP status of the server's answer, 0 without one.
	Status int
	// Err says what happened, in the server's own words if it had any.
	Err error
}

// Error returns code and cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return "nozzle: " + e.Code.String()
	}
	return "nozzle: " + e.Code.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first *Error in err's tree, or CodeUnknown.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeUnknown
}
