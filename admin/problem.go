package admin

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"tollgate/admin/seal"
	"tollgate/billing"
	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/feed"
	"tollgate/internal/ids"
	"tollgate/internal/jobs"
	"tollgate/metering"
	"tollgate/quota"
)

// Problem is the wire form of every error of the admin API (RFC 9457).
type Problem struct {
	Type      string         `json:"type" doc:"Names the kind of problem: urn:tollgate:problem: and the code." example:"urn:tollgate:problem:KEY_LIMIT"`
	Title     string         `json:"title" doc:"What kind of problem it is; the same at every occurrence."`
	Status    int            `json:"status" doc:"The HTTP status." example:"409"`
	Code      string         `json:"code" doc:"Stable; branch on this." example:"KEY_LIMIT"`
	Detail    string         `json:"detail" doc:"What happened and what to do next."`
	RequestID string         `json:"request_id" doc:"The X-Request-Id of the answer; quote it when you ask for help."`
	Errors    []ProblemFault `json:"errors,omitempty" doc:"Each fault of the input."`

	header http.Header
}

// ProblemFault is one fault of an input. It never repeats the value, which may
// be a secret.
type ProblemFault struct {
	Location string `json:"location" example:"body.path"`
	Message  string `json:"message"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problemRow is the wire form of one sentinel error.
type problemRow struct {
	err    error
	status int
	code   string
	title  string
	detail string // empty: the sentinel's own text
}

// problemRows is the only place where errors become statuses and codes. A test
// walks the exported sentinels of the packages behind the admin API and fails
// for one that has no row. The first row whose error is in the chain wins.
var problemRows = []problemRow{
	{err: ErrUnauthenticated, status: 401, code: "UNAUTHENTICATED", title: "No valid token"},
	{err: ErrForbidden, status: 403, code: "FORBIDDEN", title: "Not for this role"},
	{err: ErrNotFound, status: 404, code: "NOT_FOUND", title: "Not found"},
	{err: ErrSignIn, status: 401, code: "SIGN_IN", title: "Not signed in"},
	{err: ErrTooManyTries, status: 429, code: "TOO_MANY_TRIES", title: "Too many tries"},
	{err: ErrDenied, status: 403, code: "DENIED", title: "Not allowed by your policies"},
	{err: ErrConfirm, status: 403, code: "CONFIRM", title: "Password needed again"},
	{err: ErrLastOperator, status: 409, code: "LAST_OPERATOR", title: "The last operator"},
	{err: ErrNameTaken, status: 409, code: "NAME_TAKEN", title: "Name in use"},
	{err: ErrRouteTaken, status: 409, code: "ROUTE_TAKEN", title: "Path in use"},
	{err: ErrNotPublishable, status: 409, code: "NOT_PUBLISHABLE", title: "Product is not complete"},
	{err: ErrIfMatchRequired, status: 428, code: "IF_MATCH_REQUIRED", title: "If-Match is required"},
	{err: ErrStale, status: 412, code: "STALE", title: "Changed since it was read"},
	{err: ErrKeyLimit, status: 409, code: "KEY_LIMIT", title: "Too many API keys"},
	{err: ErrApplicationLimit, status: 409, code: "APPLICATION_LIMIT", title: "Too many applications"},
	{err: ErrAppCodeLimit, status: 409, code: "APP_CODE_LIMIT", title: "Too many AppCodes"},
	{err: ErrAppCodeTaken, status: 409, code: "APP_CODE_TAKEN", title: "AppCode cannot be used"},
	{err: ErrReceiptKeyLimit, status: 409, code: "RECEIPT_KEY_LIMIT", title: "Too many receipt keys"},
	{err: ErrNoReceiptKey, status: 409, code: "NO_RECEIPT_KEY", title: "No receipt key"},
	{err: ErrCallRuns, status: 409, code: "CALL_RUNS", title: "The call still runs"},
	{err: ErrDefaultBinding, status: 409, code: "DEFAULT_BINDING", title: "Default binding"},
	{err: ErrDefaultApplication, status: 409, code: "DEFAULT_APPLICATION", title: "Default application"},
	{err: ErrNotSubscribed, status: 409, code: "NOT_SUBSCRIBED", title: "Not bought"},
	{err: ErrNotBindable, status: 409, code: "NOT_BINDABLE", title: "Not an API product"},
	{err: ErrIdempotencyReused, status: 422, code: "IDEMPOTENCY_KEY_REUSED", title: "Idempotency-Key used before"},
	{err: ErrUnavailable, status: 503, code: "UNAVAILABLE", title: "Try again"},
	{err: ErrBusy, status: 409, code: "REBUILDING", title: "Being rebuilt already"},

	{err: ErrNotOnSale, status: 409, code: "SPEC_OFFLINE", title: "Not on sale"},

	{err: billing.ErrInvalid, status: 422, code: "INVALID", title: "Invalid input"},
	{err: billing.ErrIdempotencyConflict, status: 422, code: "IDEMPOTENCY_KEY_REUSED", title: "Idempotency-Key used before", detail: plainText(ErrIdempotencyReused)},
	{err: billing.ErrInsufficientBalance, status: 402, code: "INSUFFICIENT_BALANCE", title: "Insufficient balance", detail: "the balance is too low for this order; top it up"},
	{err: billing.ErrSpecNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: billing.ErrOrderNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: billing.ErrSubscriptionNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: billing.ErrLotNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: billing.ErrTransactionNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: billing.ErrSpecOffline, status: 409, code: "SPEC_OFFLINE", title: "Not on sale", detail: "the package is not on sale; choose another one of the product"},
	{err: billing.ErrSpecSuperseded, status: 409, code: "SPEC_SUPERSEDED", title: "There is a newer version", detail: "the package has a newer version; use that one"},
	{err: billing.ErrTooManyLots, status: 409, code: "TOO_MANY_PACKAGES", title: "Too many packages at once", detail: "the subscription would have more packages that are not over than can be used together; buy fewer, or larger ones"},
	{err: billing.ErrPurchaseRestricted, status: 409, code: "PURCHASE_RESTRICTED", title: "Purchase limit reached", detail: "the account has bought as many of this package as it may; choose another one"},
	{err: billing.ErrOnDemandNotOpen, status: 409, code: "ON_DEMAND_NOT_OPEN", title: "On-demand service not open"},
	{err: billing.ErrOnDemandOpen, status: 409, code: "ON_DEMAND_OPEN", title: "On-demand service open already", detail: "the on-demand service is open already; buy an on-demand package to pay ahead"},
	{err: billing.ErrSubscriptionFrozen, status: 409, code: "SUBSCRIPTION_FROZEN", title: "Subscription frozen", detail: "the subscription is frozen, see its reason; ask the operator to unfreeze it"},
	{err: billing.ErrSubscriptionClosed, status: 409, code: "SUBSCRIPTION_CLOSED", title: "Subscription closed"},
	{err: billing.ErrAlertNotEligible, status: 409, code: "ALERT_NOT_ELIGIBLE", title: "No alert possible"},
	{err: billing.ErrRepurchaseNotEligible, status: 409, code: "REPURCHASE_NOT_ELIGIBLE", title: "No auto-repurchase possible"},
	{err: billing.ErrRepurchaseNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: "auto-repurchase of this subscription is not set up"},
	{err: billing.ErrAgencyRequired, status: 409, code: "AGENCY_REQUIRED", title: "Authorisation is missing"},
	{err: billing.ErrAgreementRequired, status: 409, code: "AGREEMENT_REQUIRED", title: "Agreement not accepted", detail: "accept the current version of the auto-repurchase agreement: send it as `agreement`; GET /agency-policies tells it"},
	{err: billing.ErrAgencyNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: billing.ErrLotVoid, status: 409, code: "LOT_VOID", title: "Lot withdrawn", detail: "the lot was withdrawn and cannot change; buy another package"},
	{err: billing.ErrNotReversible, status: 409, code: "NOT_REVERSIBLE", title: "Cannot be reversed", detail: "only a top-up can be reversed, and only once"},
	{err: billing.ErrCursor, status: 422, code: "INVALID", title: "Invalid input"},

	{err: metering.ErrNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: "no call with this request id is known to you; it may take a moment to arrive, or be older than what is kept"},
	{err: metering.ErrInput, status: 422, code: "INVALID", title: "Invalid input"},
	{err: metering.ErrCursor, status: 422, code: "INVALID", title: "Invalid input"},

	{err: notify.ErrNotFound, status: 404, code: "NOT_FOUND", title: "Not found", detail: plainText(ErrNotFound)},
	{err: notify.ErrInvalid, status: 422, code: "INVALID", title: "Invalid input"},
	{err: jobs.ErrUnknown, status: 404, code: "NOT_FOUND", title: "Not found", detail: "there is no such job; GET /jobs lists them"},

	{err: quota.ErrUnavailable, status: 503, code: "UNAVAILABLE", title: "Try again", detail: plainText(ErrUnavailable)},
	{err: quota.ErrClosed, status: 503, code: "UNAVAILABLE", title: "Try again", detail: plainText(ErrUnavailable)},
	{err: quota.ErrExhausted, status: 409, code: "EXHAUSTED", title: "Used up"},
	{err: quota.ErrHeld, status: 409, code: "HELD", title: "Held by calls under way"},
	{err: quota.ErrNoPackage, status: 409, code: "NO_PACKAGE", title: "No package"},
	{err: quota.ErrResolved, status: 500, code: "INTERNAL", title: "Internal error", detail: internalDetail},
	{err: quota.ErrIncarnation, status: 500, code: "INTERNAL", title: "Internal error", detail: internalDetail},

	{err: feed.ErrBatch, status: 400, code: "MALFORMED", title: "Malformed request", detail: "the batch of usage records is damaged; send it again"},
	{err: feed.ErrProof, status: 401, code: feed.CodeProof, title: "Feed secret not proven"},
	{err: feed.ErrSkew, status: 401, code: feed.CodeSkew, title: "Clocks differ"},
	{err: feed.ErrNoSecret, status: 503, code: "FEED_OFF", title: "The feed is off"},
	{err: directory.ErrSeal, status: 500, code: "INTERNAL", title: "Internal error", detail: internalDetail},
	{err: seal.ErrOpen, status: 500, code: "INTERNAL", title: "Internal error", detail: internalDetail},
	{err: seal.ErrKey, status: 500, code: "INTERNAL", title: "Internal error", detail: internalDetail},
	{err: ids.ErrRequestID, status: 422, code: "INVALID", title: "Invalid input"},
	{err: context.DeadlineExceeded, status: 503, code: "UNAVAILABLE", title: "Try again", detail: "the answer took too long; try again in a moment"},
}

const internalDetail = "the request was not carried out because of an error on our side; try again, and if it stays, give the operator the request id"

// statusCodes are the codes of problems made from a bare status: by huma's
// validation, by the router, by the body limit.
var statusCodes = map[int]struct{ code, title string }{
	400: {"MALFORMED", "Malformed request"},
	401: {"UNAUTHENTICATED", "No valid token"},
	404: {"NO_SUCH_PATH", "No such path"},
	405: {"METHOD_NOT_ALLOWED", "Method not allowed"},
	406: {"NOT_ACCEPTABLE", "Not acceptable"},
	408: {"BODY_TIMEOUT", "Request body came too slowly"},
	413: {"BODY_TOO_LARGE", "Request body too large"},
	415: {"UNSUPPORTED_MEDIA_TYPE", "Unsupported media type"},
	422: {"INVALID", "Invalid input"},
	500: {"INTERNAL", "Internal error"},
}

// problemOf gives err its wire form. known is false for an error that has no
// row: its text is hidden and must be logged by the caller.
func problemOf(ctx context.Context, err error) (p *Problem, known bool) {
	if errors.As(err, &p) {
		p.RequestID = requestID(ctx)
		return p, true
	}
	var invalid *InvalidError
	if errors.As(err, &invalid) {
		p = newProblem(ctx, 422, "INVALID", "Invalid input", "the input is not valid; correct what `errors` lists and send it again")
		for _, f := range invalid.Faults {
			p.Errors = append(p.Errors, ProblemFault(f))
		}
		return p, true
	}
	// These texts list the amounts or faults of the caller's own request.
	var poor *billing.InsufficientBalanceError
	if errors.As(err, &poor) {
		return newProblem(ctx, 402, "INSUFFICIENT_BALANCE", "Insufficient balance", poor.Error()), true
	}
	for _, sentinel := range []error{billing.ErrInvalid, metering.ErrInput, notify.ErrInvalid} {
		if errors.Is(err, sentinel) {
			p = newProblem(ctx, 422, "INVALID", "Invalid input", "the input is not valid; correct what `errors` lists and send it again")
			p.Errors = joinedFaults(err, sentinel)
			return p, true
		}
	}
	for _, row := range problemRows {
		if !errors.Is(err, row.err) {
			continue
		}
		detail := row.detail
		if detail == "" {
			detail = plainText(row.err)
		}
		p = newProblem(ctx, row.status, row.code, row.title, detail)
		if row.status == http.StatusUnauthorized && row.code == "UNAUTHENTICATED" {
			p.header = http.Header{"Www-Authenticate": {`Bearer realm="tollgate"`}}
		}
		return p, true
	}
	return newProblem(ctx, 500, "INTERNAL", "Internal error", internalDetail), false
}

// joinedFaults lists the faults that a package joined behind its sentinel.
func joinedFaults(err, sentinel error) []ProblemFault {
	_, text, ok := strings.Cut(err.Error(), sentinel.Error()+": ")
	if !ok {
		return nil
	}
	var out []ProblemFault
	for line := range strings.SplitSeq(text, "\n") {
		out = append(out, ProblemFault{Location: "request", Message: line})
	}
	return out
}

func newProblem(ctx context.Context, status int, code, title, detail string) *Problem {
	return &Problem{Type: "urn:tollgate:problem:" + code, Title: title, Status: status, Code: code, Detail: detail, RequestID: requestID(ctx)}
}

// plainText is a sentinel's text without the package's name before it.
func plainText(err error) string {
	text := err.Error()
	if i := strings.Index(text, ": "); i > 0 && !strings.ContainsAny(text[:i], " `") {
		return text[i+2:]
	}
	return text
}

// statusProblem is the wire form of a bare status.
func statusProblem(ctx context.Context, status int, detail string) *Problem {
	row, ok := statusCodes[status]
	if !ok {
		row.code, row.title = "HTTP_"+strconv.Itoa(status), http.StatusText(status)
	}
	return newProblem(ctx, status, row.code, row.title, detail)
}

// installProblems makes huma answer with Problem. Its hooks are package
// variables, so this happens once for the process.
var installProblems = sync.OnceFunc(func() {
	huma.DefaultArrayNullable = false
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return humaProblem(context.Background(), status, msg, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return humaProblem(ctx.Context(), status, msg, errs)
	}
})

// humaProblem turns what huma's validation found into a Problem. Details are
// taken over without their values, and without texts that quote the input.
func humaProblem(ctx context.Context, status int, msg string, errs []error) huma.StatusError {
	if status >= 500 {
		return newProblem(ctx, status, "INTERNAL", "Internal error", internalDetail)
	}
	p := statusProblem(ctx, status, msg)
	switch status {
	case 400:
		p.Detail = "the request body is missing or is not JSON; send a JSON object"
	case 415:
		p.Detail = "send the body as Content-Type: application/json"
	case 422:
		p.Detail = "the input is not valid; correct what `errors` lists and send it again"
	}
	for _, err := range errs {
		var d huma.ErrorDetailer
		if status == 422 && errors.As(err, &d) {
			e := d.ErrorDetail()
			p.Errors = append(p.Errors, ProblemFault{Location: e.Location, Message: e.Message})
		}
	}
	return p
}
