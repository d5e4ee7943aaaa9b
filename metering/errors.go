package metering

import "errors"

// What callers branch on.
var (
	// ErrNotFound says that no call with the request id is stored: it was not
	// recorded, is not shipped yet, or is older than the retention.
	ErrNotFound = errors.New("metering: no usage record of this request: it may not have arrived yet, or be older than the retention")
	// ErrInput wraps every fault of a query's input.
	ErrInput = errors.New("metering: invalid query")
	// ErrCursor says that a page cursor was not made by List.
	ErrCursor = errors.New("metering: not a page cursor: pass the one the page before gave, or none")
)
