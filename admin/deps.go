package admin

import (
	"context"
	"time"

	"tollgate/billing"
	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/jobs"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// Billing is the marketplace's money side: *billing.Service. It is made of the
// parts that the groups of operations call.
type Billing interface {
	Goods
	Orders
	Subscriptions
	Watches
	Balances
	Alerts
	Repurchases
	Agencies
}

// Goods are what sellers sell.
type Goods interface {
	CreateSpec(ctx context.Context, in billing.SpecInput) (billing.Spec, error)
	SetSpecState(ctx context.Context, id string, state billing.SpecState) (billing.Spec, error)
	Spec(ctx context.Context, id string) (billing.Spec, error)
	Specs(ctx context.Context, f billing.SpecFilter) ([]billing.Spec, string, error)
}

// Orders turn money into subscriptions and lots.
type Orders interface {
	// Purchase must give the same order for the same key and input (ORDER-15).
	Purchase(ctx context.Context, in billing.PurchaseInput) (billing.Order, error)
	Order(ctx context.Context, id string) (billing.Order, error)
	Orders(ctx context.Context, f billing.OrderFilter) ([]billing.Order, string, error)
}

// Subscriptions are the buyers' rights to call products.
type Subscriptions interface {
	// DirectorySubscriptions returns every subscription that gateways know.
	DirectorySubscriptions(ctx context.Context) ([]directory.Subscription, error)
	Subscription(ctx context.Context, id string) (billing.Subscription, error)
	Subscriptions(ctx context.Context, f billing.SubscriptionFilter) ([]billing.Subscription, string, error)
	Freeze(ctx context.Context, in billing.SubscriptionChange) (billing.Subscription, error)
	Unfreeze(ctx context.Context, in billing.SubscriptionChange) (billing.Subscription, error)
	Close(ctx context.Context, in billing.SubscriptionChange) (billing.Subscription, error)
}

// Watches tell when a subscription's packages run low.
type Watches interface {
	SetThresholds(ctx context.Context, in billing.ThresholdChange) (billing.Thresholds, error)
	Thresholds(ctx context.Context, subscription string) ([]billing.Thresholds, error)
	Crossings(ctx context.Context, f billing.CrossingFilter) ([]billing.Crossing, string, error)
}

// Balances are the buyers' prepaid money.
type Balances interface {
	Balance(ctx context.Context, account string) (billing.Balance, error)
	TopUp(ctx context.Context, in billing.TopUpInput) (billing.Entry, error)
	Statement(ctx context.Context, in billing.StatementInput) ([]billing.Entry, string, error)
}

// Alerts are the levels at which buyers want to be told (ALERT-*).
type Alerts interface {
	Alerts(ctx context.Context, account string) ([]billing.Alert, error)
	SetAlerts(ctx context.Context, in billing.AlertChange) ([]billing.Alert, error)
	// Runway forecasts how long what is left lasts; false: nobody can tell.
	Runway(ctx context.Context, subscription string, unit usage.Unit, remaining int64) (billing.Runway, bool, error)
}

// Repurchases buy for buyers whose packages run low (REPO-*).
type Repurchases interface {
	Repurchase(ctx context.Context, subscription string) (billing.Repurchase, error)
	SetRepurchase(ctx context.Context, in billing.RepurchaseInput) (billing.Repurchase, error)
	PreviewRepurchase(ctx context.Context, in billing.RepurchaseInput) (billing.Preview, error)
	DisableRepurchase(ctx context.Context, subscription, actor string) (billing.Repurchase, error)
	RepurchaseTries(ctx context.Context, subscription string, p billing.Page) ([]billing.RepurchaseTry, string, error)
}

// Agencies are consents by which the platform acts for a buyer (DELEG-*).
type Agencies interface {
	Agencies(ctx context.Context, account string, all bool) ([]billing.Agency, error)
	GrantAgency(ctx context.Context, account, policy, actor string) (billing.Agency, error)
	DeleteAgency(ctx context.Context, account, id, actor string) error
}

// Messages is the message centre: *notify.Service.
type Messages interface {
	Inbox(ctx context.Context, account, lang, after string, unread bool, limit int) ([]notify.Message, error)
	Unread(ctx context.Context, account string) (int, error)
	MarkRead(ctx context.Context, account string, messages ...string) (int64, error)
	Receivers
	Log(ctx context.Context, f notify.LogFilter) ([]notify.Delivery, error)
	Resend(ctx context.Context, id string) error
	Endpoints(ctx context.Context, account string) ([]notify.Endpoint, error)
	AddEndpoint(ctx context.Context, e notify.Endpoint) (notify.Endpoint, string, error)
	RotateSecret(ctx context.Context, account, id string) (string, error)
	EnableEndpoint(ctx context.Context, account, id string) error
	RemoveEndpoint(ctx context.Context, account, id string) error
}

// Receivers are who gets an account's messages, and what of them.
type Receivers interface {
	SetOwner(ctx context.Context, tx *sqldb.Tx, r notify.Receiver) error
	Receivers(ctx context.Context, account string) ([]notify.Receiver, error)
	AddReceiver(ctx context.Context, r notify.Receiver) (notify.Receiver, error)
	RemoveReceiver(ctx context.Context, account, id string) error
	StartVerification(ctx context.Context, account, id string, c notify.Channel) error
	Verify(ctx context.Context, account, id, code string) error
	Settings(ctx context.Context, account, receiver string) ([]notify.Setting, error)
	Set(ctx context.Context, account string, set notify.Setting) error
}

// Jobs are what is due by the calendar: *jobs.Runner.
type Jobs interface {
	States(ctx context.Context) (map[string]jobs.State, error)
	SetPaused(ctx context.Context, name string, paused bool) error
	Retry(ctx context.Context, name string) error
}

// QuotaReader tells what is left of a subscription's units.
type QuotaReader interface {
	Read(ctx context.Context, subscription string) (lot.Balance, error)
}

// UsageSink keeps the records of gateways in other processes: a
// metering.Sink. It must keep a record once, by its request id, however often it is given (METER-12), and
// must not return nil before all of them are kept.
type UsageSink interface {
	Insert(ctx context.Context, records []usage.Record) error
}

// LastUsedReader tells when credentials were last used, by id. Those never used
// are missing.
type LastUsedReader interface {
	LastUsed(ctx context.Context, credentials []string) (map[string]time.Time, error)
}

// Reconciler compares the journal, the quota store and the usage store.
type Reconciler interface {
	Reconcile(ctx context.Context) (Reconciliation, error)
	// Explain names the calls and lots behind a subscription's drift.
	Explain(ctx context.Context, subscription string) (Explanation, error)
}

// Explanation names what is behind the drift of one subscription, call by call
// as far back as the journal reaches, and lot by lot.
type Explanation struct {
	Subscription string             `json:"subscription_id"`
	AsOf         time.Time          `json:"as_of"`
	Journals     []ExplainedJournal `json:"journals" doc:"The journals that were read: that of this process, if it is a gateway as well. Ask tollgate journal inspect on the hosts of the others."`
	Waiting      int64              `json:"waiting" doc:"Records on their way to the usage store: no drift."`
	Missing      []ExplainedCall    `json:"missing" doc:"Calls in the journal without a usage row, though it was shipped."`
	Unknown      []ExplainedCall    `json:"unknown" doc:"Usage rows of the journal's node and time without a record in it."`
	Different    []ExplainedCall    `json:"different" doc:"Calls whose record and row say different charges."`
	Lots         []ExplainedLot     `json:"lots" doc:"What each lot says was used of it, and what all calls say it paid."`
	Truncated    bool               `json:"truncated" doc:"There is more than was read or is shown."`
}

// ExplainedJournal is a journal that was compared.
type ExplainedJournal struct {
	Node    string    `json:"node"`
	From    time.Time `json:"from" doc:"Admission of the oldest record it still holds; what is older can only be told from its lot."`
	To      time.Time `json:"to"`
	Records int64     `json:"records" doc:"Of charged calls of the subscription."`
}

// ExplainedCall is a call on which journal and usage store do not agree.
type ExplainedCall struct {
	RequestID string           `json:"request_id"`
	Time      time.Time        `json:"time"`
	Node      string           `json:"node"`
	Charged   map[string]int64 `json:"charged" doc:"What lots paid, by billing item; of the record where there is one."`
	Row       map[string]int64 `json:"row,omitempty" doc:"What the row says instead."`
}

// ExplainedLot is one lot.
type ExplainedLot struct {
	Lot   string     `json:"lot_id"`
	Unit  usage.Unit `json:"unit"`
	Quota int64      `json:"quota" doc:"Used, by the quota store."`
	Calls int64      `json:"calls" doc:"Paid, by the rows of its calls and the records on their way."`
	Drift int64      `json:"drift" doc:"The former minus the latter."`
}

// Reconciliation is the comparison of what was counted, per subscription and
// unit. All drifts are 0 in a healthy system.
type Reconciliation struct {
	AsOf          time.Time            `json:"as_of"`
	Complete      bool                 `json:"complete" doc:"False while a gateway's journal could not be read or has calls that are not settled or shipped yet; drifts are then only provisional."`
	Drift         int64                `json:"drift" doc:"The sum of the absolute drifts of all rows."`
	Subscriptions []ReconciliationLine `json:"subscriptions"`
}

// ReconciliationLine is one subscription and unit.
type ReconciliationLine struct {
	Subscription string     `json:"subscription_id"`
	Unit         usage.Unit `json:"unit"`
	Journal      int64      `json:"journal" doc:"Units charged by the records in the gateways' journals."`
	Quota        int64      `json:"quota" doc:"Units used in the quota store."`
	Usage        int64      `json:"usage" doc:"Units charged by the rows of the usage store."`
	Drift        int64      `json:"drift" doc:"The largest difference between two of them, signed as quota or usage minus journal."`
}

// Rebuilder looks after a quota store that may have lost what it was told.
type Rebuilder interface {
	// QuotaStore tells how the store stands.
	QuotaStore() QuotaStore
	// Rebuild compares the store with the books and, unless dry, restores what
	// it lacks. It returns ErrBusy while another process does.
	Rebuild(ctx context.Context, dry bool) (QuotaRebuild, error)
}

// QuotaStore is how the quota store stands.
type QuotaStore struct {
	Whole      bool       `json:"whole" doc:"The store has everything that was sold and, but for the last seconds, everything that was used."`
	Rebuilding string     `json:"rebuilding,omitempty" doc:"Why it is being compared and rebuilt now."`
	Generation int64      `json:"generation" doc:"Raised by every change of a grant; the store keeps it as its mark."`
	Rebuilds   int64      `json:"rebuilds" doc:"How often the store had lost something and was rebuilt."`
	LastAt     *time.Time `json:"last_rebuild_at,omitempty" doc:"When it last was."`
	LastReason string     `json:"last_rebuild_reason,omitempty"`
	CopiedAt   *time.Time `json:"copied_at,omitempty" doc:"When this process last copied the store's counters to the SQL database."`
}

// QuotaRebuild is what a comparison found and a rebuild restored.
type QuotaRebuild struct {
	DryRun        bool  `json:"dry_run" doc:"Nothing was changed."`
	Subscriptions int   `json:"subscriptions" doc:"Subscriptions compared."`
	Lots          int   `json:"lots" doc:"Lots compared."`
	Short         int   `json:"short" doc:"Subscriptions of which the store lacked something."`
	MissingLots   int   `json:"missing_lots" doc:"Lots it did not have, or had in an older version."`
	MissingUnits  int64 `json:"missing_units" doc:"Units of use it did not have, all billing items together."`
}

// Rating tells what on-demand use was sealed for billing.
type Rating interface {
	// Buckets lists the buckets of a subscription over [from, to), in the order
	// of hours, after the given one unless that is zero.
	Buckets(ctx context.Context, subscription string, from, to time.Time, after usage.Bucket, limit int) ([]usage.Bucket, error)
}

// UsageReader answers questions about usage rows: a usage store of metering.
type UsageReader interface {
	// Query sums calls. Its rows are those that have calls.
	Query(ctx context.Context, in metering.QueryInput) (metering.Result, error)
	// List returns single calls, newest first, a page at a time.
	List(ctx context.Context, in metering.ListInput) (metering.Page, error)
	// ByRequest returns the record of one call, or metering.ErrNotFound.
	ByRequest(ctx context.Context, id ids.Request) (usage.Record, error)
}
