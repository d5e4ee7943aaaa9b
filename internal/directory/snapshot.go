package directory

import (
	"context"
	"time"

	"tollgate/internal/usage"
)

// Snapshot is everything a gateway needs to serve. It is never changed after
// it was built: readers share it.
type Snapshot struct {
	Version int64     `json:"version"` // increases with every change
	Made    time.Time `json:"made"`
	Region  string    `json:"region"`

	// Pepper is the server key of all keyed hashes in the snapshot (API keys,
	// AppCodes): HMAC-SHA256(Pepper, secret).
	Pepper []byte `json:"pepper"`

	Products      []Product      `json:"products"`
	Subscriptions []Subscription `json:"subscriptions"`
	Applications  []Application  `json:"applications"`
	AppKeys       []AppKey       `json:"app_keys"`
	AppCodes      []AppCode      `json:"app_codes"`
	APIKeys       []APIKey       `json:"api_keys"`

	// ReceiptKeys are those of accounts that want a receipt in the header of
	// every plain answer; at most one of each account.
	ReceiptKeys []ReceiptKey `json:"receipt_keys,omitempty"`
}

// ReceiptKey signs the receipts of an account (internal/receipt).
type ReceiptKey struct {
	ID      string `json:"id"`
	Account string `json:"account"`
	Secret  Secret `json:"secret"`
}

// Kind tells API products from LLM products.
type Kind string

// The kinds of product (TYPE-6, TYPE-7).
const (
	KindAPI Kind = "api"
	KindLLM Kind = "llm"
)

// Product is a published product with its route and its upstreams.
type Product struct {
	ID     string `json:"id"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	Seller string `json:"seller"`

	// InferID addresses an LLM product at /v1/infers/{InferID}/v1/… (LLM-1).
	InferID string `json:"infer_id,omitempty"`
	// Models an LLM product answers to; the first is its default.
	Models []Model `json:"models,omitempty"`

	// Host, when set, is the only host an API product answers at; Path is the
	// prefix it owns, without a trailing slash: itself and everything below.
	Host string `json:"host,omitempty"`
	Path string `json:"path,omitempty"`
	// Methods an API product answers; empty means all.
	Methods []string `json:"methods,omitempty"`
	// StripPath removes Path before the request goes upstream.
	StripPath bool `json:"strip_path,omitempty"`

	// SimpleAuth admits AppCodes (AUTH-6).
	SimpleAuth bool `json:"simple_auth,omitempty"`

	Upstreams []Upstream `json:"upstreams"`
	// Traffic says how calls are spread over them, bounded and tried again.
	Traffic Traffic `json:"traffic,omitzero"`

	// ForwardMock lets X-Mock-* request headers through to the upstream. Only
	// the demo's products set it.
	ForwardMock bool `json:"forward_mock,omitempty"`

	// OnDisconnect says what happens when the client leaves mid-stream:
	// "drain" (default) or "cancel".
	OnDisconnect string `json:"on_disconnect,omitempty"`

	// BillEstimates allows charging counted and estimated amounts when the
	// upstream reported no usage (LLM-37). Off by default.
	BillEstimates bool `json:"bill_estimates,omitempty"`

	// Policy limits all calls of the product together.
	Policy *Policy `json:"policy,omitempty"`

	// Items say where the amounts of billing items stand, for what the gateway
	// does not know by itself (internal/meter has the rules and the defaults).
	Items []Item `json:"items,omitempty"`

	// Parameters is the profile by which the parameters of chat and completion
	// requests are checked: empty (only what routing and metering need) or
	// ParametersVLLM (LLM-10..28).
	Parameters string `json:"parameters,omitempty"`

	// Objects says whose the upstream's files, batches and stored responses are:
	// empty (every buyer its own, by id: lists are refused) or ObjectsShared.
	Objects string `json:"objects,omitempty"`
}

// ObjectsShared lets lists of an LLM product's upstream objects through: its
// account there belongs to a single buyer, or all may see everything.
const ObjectsShared = "shared"

// ParametersVLLM is the parameter profile of vLLM-like upstreams.
const ParametersVLLM = "vllm"

// Item is one billing item of a product: a unit and where its amount stands.
// Several of one unit are alternatives: the first that finds an amount counts.
type Item struct {
	Unit usage.Unit `json:"unit"`
	// Routes the item holds for: names of route families ("images",
	// "audio.speech", …) or path prefixes behind the base URL ("/agents/run").
	// Empty: every route.
	Routes []string `json:"routes,omitempty"`
	From   ItemFrom `json:"from"`
	// Path leads to the amount: keys joined by dots, # for every element of a
	// list, whose amounts are added up. Not used by ItemFixed.
	Path string `json:"path,omitempty"`
	// Per divides the amount, rounding up: 1000 makes seconds of milliseconds.
	// 0 means 1.
	Per int64 `json:"per,omitempty"`
	// Amount is what each counted call costs by ItemFixed; 0 makes it free.
	Amount int64 `json:"amount,omitempty"`
}

// ItemFrom says what an item reads.
type ItemFrom string

// The sources of an item.
const (
	ItemAnswer  ItemFrom = "answer"  // the number at the path of the answer, or of an event of it
	ItemCount   ItemFrom = "count"   // how many elements the list at the path of the answer has
	ItemRequest ItemFrom = "request" // how many characters the text, or the texts of the list, at the path of the request have
	ItemFixed   ItemFrom = "fixed"   // Amount for each counted call
)

// Model is a name callers use and the name the upstream knows it by.
type Model struct {
	Name     string `json:"name"`
	Upstream string `json:"upstream,omitempty"` // empty: the same name
}

// Upstream is one target of a product.
type Upstream struct {
	ID      string `json:"id"`
	URL     string `json:"url"` // scheme://host[:port][/base]
	Weight  int    `json:"weight,omitempty"`
	Headers []KV   `json:"headers,omitempty"` // constant headers, the upstream's own credentials among them
	// Models names the product's models as this upstream knows them, where that
	// differs from what the product says.
	Models []Model     `json:"models,omitempty"`
	TLS    UpstreamTLS `json:"tls,omitzero"`
}

// KV is a header.
type KV struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// SubscriptionState says whether a subscription serves.
type SubscriptionState string

// The states of a subscription.
const (
	SubscriptionActive SubscriptionState = "active"
	SubscriptionFrozen SubscriptionState = "frozen" // arrears: 405 code 0502, LLM 403 account_frozen
	SubscriptionClosed SubscriptionState = "closed"
)

// Mode is the billing mode of a subscription, which decides its metering rule.
type Mode string

// The billing modes (PKG-1, PKG-4).
const (
	ModePerCall         Mode = "per_call"          // prepaid calls: METER-1 before the switch instant, METER-2 after
	ModeOnDemand        Mode = "on_demand"         // METER-3
	ModeOnDemandPackage Mode = "on_demand_package" // METER-3
	ModeUsedUpStop      Mode = "used_up_stop"      // METER-3; stops when dry
)

// Subscription is a buyer's right to call a product, with the units its
// packages are counted in. Its lots live in the quota store under the same id.
type Subscription struct {
	ID      string            `json:"id"`
	Account string            `json:"account"`
	Product string            `json:"product"`
	Mode    Mode              `json:"mode"`
	State   SubscriptionState `json:"state"`
	Units   []usage.Unit      `json:"units"`   // billing items charged, at least one
	Created time.Time         `json:"created"` // of several for one product the earliest serves first
	Policy  *Policy           `json:"policy,omitempty"`
}

// Application holds AppKey and AppCodes of a buyer (AUTH-7..11).
type Application struct {
	ID      string `json:"id"`
	Account string `json:"account"`
	Name    string `json:"name"`
	// Bound lists the ids of the products its credentials may call.
	Bound []string `json:"bound"`
	// Policy limits the calls by its AppKey and AppCodes together.
	Policy *Policy `json:"policy,omitempty"`
}

// AppKey is the key pair of an application for signatures.
type AppKey struct {
	ID          string `json:"id"`
	Application string `json:"application"`
	Key         string `json:"key"`
	Secret      Secret `json:"secret"`
}

// AppCode is one simple-authentication code of an application.
type AppCode struct {
	ID          string `json:"id"`
	Application string `json:"application"`
	Hash        []byte `json:"hash"` // HMAC-SHA256(Pepper, code), 32 bytes
}

// APIKey is one Bearer key of an account (KEY-1..11).
type APIKey struct {
	ID       string   `json:"id"`
	Account  string   `json:"account"`
	Hash     []byte   `json:"hash"`               // HMAC-SHA256(Pepper, key), 32 bytes
	Products []string `json:"products,omitempty"` // allow-list of product ids; empty means all the account holds (KEY-8)
	Policy   *Policy  `json:"policy,omitempty"`
}

// Secret is a text that prints masked. Reveal it only where it is used.
type Secret string

// String masks the secret.
func (Secret) String() string { return "***" }

// GoString masks the secret.
func (Secret) GoString() string { return "***" }

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// Source yields snapshots.
type Source interface {
	// Next returns the newest snapshot as soon as its version is not since. It
	// waits until there is one or ctx ends. Each error is worth a retry.
	Next(ctx context.Context, since int64) (*Snapshot, error)
}
