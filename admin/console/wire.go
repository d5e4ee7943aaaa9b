package console

import "time"

// The answers of the API, as far as pages show them.

type productWire struct {
	ID          string `json:"id"`
	Seller      string `json:"seller_id"`
	Kind        string `json:"kind"`
	Name        string `json:"name"`
	Description string `json:"description"`
	BaseURL     string `json:"base_url"`
	Published   bool   `json:"published"`
	Models      []struct {
		Name string `json:"name"`
	} `json:"models"`
}

type specWire struct {
	ID              string `json:"id"`
	Product         string `json:"product_id"`
	Name            string `json:"name"`
	Mode            string `json:"mode"`
	Price           string `json:"price"`
	State           string `json:"state"`
	ValidityMonths  int    `json:"validity_months"`
	ValiditySeconds int64  `json:"validity_seconds"`
	Reset           string `json:"reset"`
	Quotas          []struct {
		Unit   string `json:"unit"`
		Amount int64  `json:"amount"`
	} `json:"quotas"`
}

type orderWire struct {
	ID           string     `json:"id"`
	Account      string     `json:"account_id"`
	Product      string     `json:"product_id"`
	Spec         string     `json:"spec_id"`
	Quantity     int64      `json:"quantity"`
	UnitPrice    string     `json:"unit_price"`
	Amount       string     `json:"amount"`
	State        string     `json:"state"`
	FailureCode  string     `json:"failure_code"`
	Subscription string     `json:"subscription_id"`
	Placed       time.Time  `json:"placed"`
	Paid         *time.Time `json:"paid"`
	Completed    *time.Time `json:"completed"`
}

type subscriptionWire struct {
	ID      string   `json:"id"`
	Product string   `json:"product_id"`
	Mode    string   `json:"mode"`
	State   string   `json:"state"`
	Reason  string   `json:"reason"`
	Units   []string `json:"units"`
	Access  *struct {
		BaseURL     string   `json:"base_url"`
		AuthKinds   []string `json:"auth_kinds"`
		Application string   `json:"application_id"`
		AppKey      string   `json:"app_key"`
		Models      []struct {
			Name string `json:"name"`
		} `json:"models"`
	} `json:"access"`
}

type unitWire struct {
	Unit      string `json:"unit"`
	Granted   int64  `json:"granted"`
	Used      int64  `json:"used"`
	Leased    int64  `json:"leased"`
	Remaining int64  `json:"remaining"`
	Lapsed    int64  `json:"lapsed"`
	Overrun   int64  `json:"overrun"`
}

type lotWire struct {
	unitWire
	ID        string     `json:"id"`
	State     string     `json:"state"`
	Overflow  bool       `json:"overflow"`
	Effective time.Time  `json:"effective"`
	Expires   *time.Time `json:"expires"`
	To        *time.Time `json:"period_to"`
}

type quotaWire struct {
	AsOf  time.Time  `json:"as_of"`
	Units []unitWire `json:"units"`
	Lots  []lotWire  `json:"lots"`
}

type keyWire struct {
	ID          string     `json:"id"`
	Prefix      string     `json:"prefix"`
	Suffix      string     `json:"suffix"`
	Description string     `json:"description"`
	Products    []string   `json:"products"`
	Enabled     bool       `json:"enabled"`
	Created     time.Time  `json:"created"`
	LastUsed    *time.Time `json:"last_used"`
	Secret      string     `json:"api_key"`
}

type applicationWire struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Market bool   `json:"market"`
	Key    struct {
		Key    string `json:"app_key"`
		Secret string `json:"app_secret"`
	} `json:"key"`
	Bindings []struct {
		Product string `json:"product_id"`
	} `json:"bindings"`
	Created time.Time `json:"created"`
}

type totalsWire struct {
	Requests int64            `json:"requests"`
	Counted  int64            `json:"counted"`
	Errors   int64            `json:"errors"`
	Units    map[string]int64 `json:"units"`
	Charged  map[string]int64 `json:"charged"`
	Overrun  map[string]int64 `json:"overrun"`
}

type figuresWire struct {
	From time.Time  `json:"from"`
	To   time.Time  `json:"to"`
	AsOf *time.Time `json:"as_of"`
	Rows []struct {
		Group string     `json:"group"`
		Start *time.Time `json:"start"`
		totalsWire
	} `json:"rows"`
	Total totalsWire `json:"total"`
}

type recordWire struct {
	RequestID    string           `json:"request_id"`
	Time         time.Time        `json:"time"`
	Finished     time.Time        `json:"finished"`
	Subscription string           `json:"subscription_id"`
	Product      string           `json:"product_id"`
	API          string           `json:"api"`
	Model        string           `json:"model"`
	Auth         string           `json:"auth"`
	Credential   string           `json:"credential_id"`
	Node         string           `json:"node"`
	Status       int              `json:"status"`
	Reason       string           `json:"reason"`
	Counted      bool             `json:"counted"`
	Rule         string           `json:"rule"`
	Basis        string           `json:"basis"`
	Streamed     bool             `json:"streamed"`
	Incomplete   bool             `json:"incomplete"`
	ClientGone   bool             `json:"client_gone"`
	Units        map[string]int64 `json:"units"`
	Overrun      map[string]int64 `json:"overrun"`
	Charges      []struct {
		Lot    string `json:"lot_id"`
		Unit   string `json:"unit"`
		Amount int64  `json:"amount"`
	} `json:"charges"`
	TotalUs     int64 `json:"total_us"`
	UpstreamUs  int64 `json:"upstream_us"`
	FirstByteUs int64 `json:"first_byte_us"`
	Attempts    int64 `json:"attempts"`
}

type balanceWire struct {
	Available string `json:"available"`
}

type entryWire struct {
	Seq       int64     `json:"seq"`
	Kind      string    `json:"kind"`
	Amount    string    `json:"amount"`
	Balance   string    `json:"balance"`
	Reference string    `json:"reference"`
	Reason    string    `json:"reason"`
	Time      time.Time `json:"time"`
}
