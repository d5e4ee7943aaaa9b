package apisign

import (
	"errors"
	"time"
)

// The ways a signature can fail. [Verifier.Verify] and [Parsed.Parse] return
// errors that match exactly one of them.
var (
	// ErrMalformed means that the Authorization header, the date or a signed
	// value does not have the form of an app signature.
	ErrMalformed = errors.New("signature malformed")
	// ErrDateMissing means that X-Sdk-Date was not sent, or is not in SignedHeaders.
	ErrDateMissing = errors.New("header x-sdk-date not found")
	// ErrExpired means that X-Sdk-Date is further from the server's clock than
	// the skew allows; the error is an [*ExpiredError].
	ErrExpired = errors.New("signature expired")
	// ErrHeaderMissing means that a header named in SignedHeaders was not sent;
	// the error is a [*HeaderMissingError].
	ErrHeaderMissing = errors.New("signed header not found")
	// ErrBodyHash means that X-Sdk-Content-Sha256 is not the hash of the body.
	ErrBodyHash = errors.New("x-sdk-content-sha256 does not match the body")
	// ErrMismatch means that the request is not the one that was signed, or that
	// another secret signed it.
	ErrMismatch = errors.New("verify signature fail")
)

// fault is an error with its own text that matches one of the sentinels. All
// faults are made once, so that a flood of bad requests allocates nothing.
type fault struct {
	kind error
	text string
}

func (f *fault) Error() string        { return f.text }
func (f *fault) Is(target error) bool { return target == f.kind }

var (
	errScheme      = &fault{ErrMalformed, "authorization must begin with SDK-HMAC-SHA256"}
	errParam       = &fault{ErrMalformed, "authorization must have the form SDK-HMAC-SHA256 Access=…, SignedHeaders=…, Signature=…"}
	errTwice       = &fault{ErrMalformed, "authorization names Access, SignedHeaders or Signature twice"}
	errAccess      = &fault{ErrMalformed, "Access must be an AppKey of 1 to 200 letters, digits, hyphens and underscores"}
	errSignature   = &fault{ErrMalformed, "Signature must be 64 hexadecimal digits"}
	errNames       = &fault{ErrMalformed, "SignedHeaders must be lower-case header names separated by semicolons"}
	errNamesTwice  = &fault{ErrMalformed, "SignedHeaders names a header twice"}
	errNamesMany   = &fault{ErrMalformed, "SignedHeaders names more than 128 headers"}
	errAuthTwice   = &fault{ErrMalformed, "more than one Authorization header"}
	errDateForm    = &fault{ErrMalformed, "X-Sdk-Date must have the form YYYYMMDDTHHMMSSZ in UTC"}
	errDateTwice   = &fault{ErrMalformed, "more than one X-Sdk-Date header"}
	errDateUnsign  = &fault{ErrDateMissing, "x-sdk-date must be named in SignedHeaders"}
	errHashTwice   = &fault{ErrMalformed, "more than one X-Sdk-Content-Sha256 header"}
	errHashForm    = &fault{ErrBodyHash, "X-Sdk-Content-Sha256 must be the 64 hexadecimal digits of the body's SHA-256, or UNSIGNED-PAYLOAD"}
	errValueBroken = &fault{ErrMalformed, "a signed value holds a line break"}
)

// ExpiredError carries the two times that are too far apart. It matches
// [ErrExpired].
type ExpiredError struct {
	Signed time.Time // X-Sdk-Date
	Server time.Time // the verifier's clock
}

func (e *ExpiredError) Error() string {
	return "signature expired, signature time:" + e.Signed.UTC().Format(DateLayout) +
		",server time:" + e.Server.UTC().Format(DateLayout)
}

// Is reports whether target is [ErrExpired].
func (e *ExpiredError) Is(target error) bool { return target == ErrExpired }

// HeaderMissingError names the signed header that was not sent. It matches
// [ErrHeaderMissing].
type HeaderMissingError struct{ Name string }

func (e *HeaderMissingError) Error() string { return "signed header " + e.Name + " not found" }

// Is reports whether target is [ErrHeaderMissing].
func (e *HeaderMissingError) Is(target error) bool { return target == ErrHeaderMissing }
