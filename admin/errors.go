package admin

import (
	"errors"
	"strings"
)

// The errors callers branch on. Their texts reach clients as the detail of a
// problem, so each names the remedy. problem.go gives them their wire form.
var (
	// ErrUnauthenticated says that no valid token came with the request. It is
	// the same for a missing, a wrong, a revoked and an expired one.
	ErrUnauthenticated = errors.New("admin: send a valid token as `Authorization: Bearer <token>`; an operator makes one with POST /api/v1/tokens")
	// ErrForbidden says that the token's role may never do this.
	ErrForbidden = errors.New("admin: the role of this token may not do this; use a token of a role that may")
	// ErrNotFound says that the thing does not exist, or is not the actor's.
	ErrNotFound = errors.New("admin: there is no such thing, or it is not yours; check the id in the path")
	// ErrNameTaken says that a name must be unique and is in use.
	ErrNameTaken = errors.New("admin: the name is in use; choose another")
	// ErrRouteTaken says that a product's host and path overlap with another's.
	ErrRouteTaken = errors.New("admin: the host and path overlap with those of another product, which owns its path and everything below; choose another path")
	// ErrNotPublishable says that a product lacks what serving it needs.
	ErrNotPublishable = errors.New("admin: the product cannot be published without an upstream that has a weight above 0; add one")
	// ErrIfMatchRequired says that an update does not say what it is based on.
	ErrIfMatchRequired = errors.New("admin: send the ETag you read in If-Match, so that nobody's change is lost")
	// ErrStale says that the thing changed since it was read.
	ErrStale = errors.New("admin: the product was changed by somebody else since you read it; read it again and repeat the change")
	// ErrKeyLimit is KEY-4.
	ErrKeyLimit = errors.New("admin: the account holds as many API keys as it may; delete one that is not used")
	// ErrApplicationLimit says that an account holds its full number of
	// applications.
	ErrApplicationLimit = errors.New("admin: the account holds as many applications as it may; delete one that is not used")
	// ErrAppCodeLimit says that an application holds its full number of AppCodes.
	ErrAppCodeLimit = errors.New("admin: the application holds as many AppCodes as it may; delete one that is not used")
	// ErrAppCodeTaken says that a given AppCode is in use. Nothing tells by whom.
	ErrAppCodeTaken = errors.New("admin: choose another AppCode, or leave it out to have one made")
	// ErrDefaultBinding is AUTH-11.
	ErrDefaultBinding = errors.New("admin: the binding of MARKETPLACE_APP stays while the subscription is active; use an application of your own to limit what a credential may call")
	// ErrDefaultApplication says that MARKETPLACE_APP cannot be deleted.
	ErrDefaultApplication = errors.New("admin: MARKETPLACE_APP belongs to your purchases and cannot be deleted; reset its secret or delete its AppCodes instead")
	// ErrNotSubscribed says that the account has not bought the product.
	ErrNotSubscribed = errors.New("admin: the account has no active subscription of this product; buy a package of it first")
	// ErrNotBindable says that a product does not use applications (AUTH-14).
	ErrNotBindable = errors.New("admin: an LLM product is called with API keys, not with applications; make a key with POST /api/v1/api-keys")
	// ErrNotOnSale is the failure SPEC_OFFLINE of ORDER-16 for a product that is
	// not published.
	ErrNotOnSale = errors.New("admin: the product is not on sale; choose one of GET /api/v1/products")
	// ErrIdempotencyReused says that an Idempotency-Key came with another input.
	ErrIdempotencyReused = errors.New("admin: this Idempotency-Key was used with another input; use a fresh key for a new request")
	// ErrUnavailable says that a part the answer needs is not there in this
	// process or is away.
	ErrUnavailable = errors.New("admin: the store behind this answer is away; try again in a moment")
	// ErrReceiptKeyLimit says that an account holds its full number of receipt keys.
	ErrReceiptKeyLimit = errors.New("admin: the account holds as many receipt keys as it may; delete one whose receipts need no checking any more")
	// ErrNoReceiptKey says that nothing can sign the account's receipts.
	ErrNoReceiptKey = errors.New("admin: the account has no receipt key; its owner makes one with POST /api/v1/accounts/{id}/receipt-keys")
	// ErrCallRuns says that a call has no receipt yet.
	ErrCallRuns = errors.New("admin: the call still runs, so what it is charged is not known; ask again when it has ended")
	// ErrSignIn says that a sign-in was refused, and not why.
	ErrSignIn = errors.New("admin: the name, the password or the one-time code is not right; check them and try again")
	// ErrTooManyTries says that a name or an address is locked out for a while.
	ErrTooManyTries = errors.New("admin: too many tries to sign in; wait a quarter of an hour and try again")
	// ErrDenied says that a sub-user's policies do not let it do this (IAM-7).
	ErrDenied = errors.New("admin: your policies do not allow this; ask an owner of the account")
	// ErrConfirm says that the password must be entered again.
	ErrConfirm = errors.New("admin: enter your password again to do this")
	// ErrLastOperator says that nobody would be left to run the marketplace.
	ErrLastOperator = errors.New("admin: this is the last operator; make another one first")
	// ErrBusy says that another process is rebuilding the quota store.
	ErrBusy = errors.New("admin: another process is rebuilding the quota store; ask GET /api/v1/quota/store when it is done")
)

// InvalidError tells every fault of an input.
type InvalidError struct{ Faults []Fault }

// Fault is one fault of an input.
type Fault struct {
	Location string // such as body.path
	Message  string // what is wrong and what would be right; never the value
}

// Error returns the faults in one line.
func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("admin: the input is not valid")
	for i, f := range e.Faults {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(f.Location + " " + f.Message)
	}
	return b.String()
}

// faults gathers what is wrong with an input.
type faults struct{ list []Fault }

func (f *faults) add(location, message string) {
	f.list = append(f.list, Fault{location, message})
}

// check adds a fault unless ok.
func (f *faults) check(ok bool, location, message string) {
	if !ok {
		f.add(location, message)
	}
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &InvalidError{f.list}
}
