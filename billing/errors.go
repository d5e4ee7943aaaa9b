package billing

import (
	"errors"
	"fmt"

	"tollgate/internal/money"
)

// Errors that callers tell apart. Each is wrapped with what was being done; the
// text holds the remedy where the caller has one.
var (
	// ErrInvalid says that an input breaks a rule; its text lists every fault.
	ErrInvalid = errors.New("invalid input")

	// ErrIdempotencyConflict says that the key was used with other input.
	ErrIdempotencyConflict = errors.New("the idempotency key was already used with different input: use a new key for a new request")

	// ErrInsufficientBalance says that an account holds too little money. It
	// comes as an *InsufficientBalanceError, which carries the amounts.
	ErrInsufficientBalance = errors.New("insufficient balance")

	// ErrSpecNotFound, ErrOrderNotFound, ErrSubscriptionNotFound, ErrLotNotFound
	// and ErrTransactionNotFound say that there is nothing under the id.
	ErrSpecNotFound         = errors.New("there is no such spec")
	ErrOrderNotFound        = errors.New("there is no such order")
	ErrSubscriptionNotFound = errors.New("there is no such subscription")
	ErrLotNotFound          = errors.New("there is no such lot")
	ErrTransactionNotFound  = errors.New("there is no such ledger transaction")

	// ErrSpecOffline is the failure SPEC_OFFLINE of ORDER-16.
	ErrSpecOffline = errors.New("the spec is not on sale")

	// ErrSpecSuperseded says that a spec has a newer version, which is the one
	// to edit or to put on sale.
	ErrSpecSuperseded = errors.New("the spec has a newer version")

	// ErrTooManyLots says that a subscription would have more lots at once than
	// the quota store takes in one step: buy fewer or larger packages.
	ErrTooManyLots = errors.New("the subscription would have too many packages at once")
	// ErrPurchaseRestricted is the failure PURCHASE_RESTRICTED of ORDER-16: the
	// purchase limit of the spec (LIMIT-3).
	ErrPurchaseRestricted = errors.New("the purchase limit of the spec is reached")

	// ErrOnDemandNotOpen is the failure ON_DEMAND_NOT_OPEN of ORDER-16 (PKG-2).
	ErrOnDemandNotOpen = errors.New("an on-demand package needs the on-demand service: open it first")

	// ErrOnDemandOpen says that the on-demand service is open already.
	ErrOnDemandOpen = errors.New("the on-demand service is open already")

	// ErrSubscriptionFrozen says that nothing can be bought into a frozen
	// subscription.
	ErrSubscriptionFrozen = errors.New("the subscription is frozen: have it unfrozen first")

	// ErrSubscriptionClosed says that a closed subscription cannot change.
	ErrSubscriptionClosed = errors.New("the subscription is closed: buy the product again for a new one")

	// ErrAlertNotEligible says that a spec's packages can have no alert
	// (ALERT-1, ALERT-3).
	ErrAlertNotEligible = errors.New("alerts are for packages that were bought and do not reset, and not for on-demand use")

	// ErrRepurchaseNotEligible says that nothing can be bought automatically for
	// a subscription, or not the plan that was chosen (REPO-1, 3, 4, 5, 8).
	ErrRepurchaseNotEligible = errors.New("auto-repurchase is not possible")

	// ErrRepurchaseNotFound says that a subscription has no auto-repurchase.
	ErrRepurchaseNotFound = errors.New("auto-repurchase is not set up")

	// ErrAgencyRequired says that the buyer must first let the platform order
	// for it (REPO-9, DELEG-7).
	ErrAgencyRequired = errors.New("the platform needs your authorisation to order for you: grant the agency mkp_agency_trust with the policy api_product_repurchase_policy first")

	// ErrAgreementRequired says that the agreements were not accepted in their
	// current version (REPO-9).
	ErrAgreementRequired = errors.New("the current version of the auto-repurchase agreement must be accepted")

	// ErrAgencyNotFound says that there is no such agency in force.
	ErrAgencyNotFound = errors.New("there is no such agency")

	// ErrLotVoid says that a withdrawn lot cannot change.
	ErrLotVoid = errors.New("the lot is void")

	// ErrNotReversible says that a ledger transaction cannot be taken back:
	// only top-ups can, and those once.
	ErrNotReversible = errors.New("the ledger transaction cannot be reversed")

	// ErrCursor says that a page's cursor was not made by the same list.
	ErrCursor = errors.New("the cursor is not one of this list: start again without it")
)

// InsufficientBalanceError says how much money is missing for a debit.
type InsufficientBalanceError struct {
	Account   string       // ledger account
	Needed    money.Amount // the debit
	Available money.Amount // what the account holds
}

// Error names the amounts and the remedy.
func (e *InsufficientBalanceError) Error() string {
	missing, err := e.Missing()
	if err != nil {
		return fmt.Sprintf("%v: %s needed, %s available", ErrInsufficientBalance, e.Needed, e.Available)
	}
	return fmt.Sprintf("%v: %s needed, %s available: top up at least %s", ErrInsufficientBalance, e.Needed, e.Available, missing)
}

// Missing returns how much has to be topped up.
func (e *InsufficientBalanceError) Missing() (money.Amount, error) { return e.Needed.Sub(e.Available) }

// Unwrap makes errors.Is find ErrInsufficientBalance.
func (e *InsufficientBalanceError) Unwrap() error { return ErrInsufficientBalance }

// invalid joins faults into an ErrInvalid, or returns nil if there are none.
func invalid(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalid, errors.Join(faults...))
}
