package notify

// Channel is a way a message reaches somebody (MSG-1).
type Channel string

// The channels.
const (
	Site    Channel = "site" // the inbox of the account: always
	Mail    Channel = "mail"
	SMS     Channel = "sms"
	Voice   Channel = "voice"
	Webhook Channel = "webhook"
)

// Category groups kinds for what receivers choose (MSG-3, ALERT-17).
type Category struct {
	Name string
	// Titles in the message centre.
	Zh, En string
	// Required ones cannot be switched off and carry no unsubscribe link.
	Required bool
	// Channels of the account's owner by default.
	Channels []Channel
}

// Categories are all there are, in the order of the settings page.
var Categories = []Category{
	{Name: "balance", Zh: "财务信息 > 账户余额", En: "Finance > account balance", Required: true, Channels: []Channel{Mail, SMS}},
	{Name: "expiring", Zh: "产品信息 > 产品即将到期通知", En: "Product > running out and expiring", Channels: []Channel{Mail, SMS}},
	{Name: "repurchase", Zh: "财务信息 > 自动复购", En: "Finance > auto-repurchase", Required: true, Channels: []Channel{Mail, SMS}},
	{Name: "order", Zh: "产品信息 > 订单", En: "Product > orders", Required: true, Channels: []Channel{Mail}},
	{Name: "security", Zh: "安全信息", En: "Security", Required: true, Channels: []Channel{Mail, SMS}},
	{Name: "sales", Zh: "销售信息", En: "Offers", Channels: []Channel{Mail}},
}

// Kind is one sort of message, with a template in each language.
type Kind struct {
	Name     string
	Category string
	Rule     string // id of the notification in the rules
	// Sample are variables as a caller gives them: they document the template
	// and make its golden file.
	Sample map[string]any
}

// alertSample is what the notices of ALERT-18, ALERT-24 and ALERT-26 tell.
func alertSample(overflow bool) map[string]any {
	return map[string]any{
		"package": "Weather 10,000 calls", "region": "cn-north-4", "remaining": int64(2000), "total": int64(10000), "unit": "call",
		"threshold": "20%", "overflow": overflow, "runway": "9 d", "repurchase": "off", "link": "/services/01J",
	}
}

// Kinds are all there are.
var Kinds = []Kind{
	{"order_paid", "order", "MSG-10", map[string]any{"order": "01J0", "product": "Weather", "spec": "10,000 calls", "amount": int64(99_000_000), "balance": int64(901_000_000), "link": "/orders/01J0"}},
	{"order_cancelled", "order", "ORDER-4", map[string]any{"order": "01J0", "product": "Weather", "spec": "10,000 calls", "amount": int64(99_000_000), "link": "/orders/01J0"}},
	{"top_up", "balance", "people 1b", map[string]any{"amount": int64(100_000_000), "balance": int64(1_000_000_000), "link": "/balance"}},
	{"low_quota_on_demand", "balance", "MSG-12", alertSample(true)},
	{"low_quota", "expiring", "MSG-13", alertSample(false)},
	{"used_up", "balance", "ALERT-24", alertSample(false)},
	{"quota_expiring", "expiring", "people 1b", map[string]any{"package": "Weather 10,000 calls", "remaining": int64(2000), "unit": "call", "days": int64(7), "expires": "2026-12-31T16:00:00Z", "link": "/services/01J"}},
	{"renewal_reminder", "expiring", "MSG-23", map[string]any{"package": "Weather monthly", "days": int64(7), "expires": "2026-12-31T16:00:00Z", "link": "/services/01J"}},
	{"repurchase_configured", "repurchase", "MSG-14", map[string]any{"package": "Weather 10,000 calls", "plan": "10,000 calls", "price": int64(99_000_000), "threshold": "20%", "worst_day": int64(990_000_000), "cap": int64(500_000_000), "link": "/services/01J"}},
	{"repurchase_succeeded", "repurchase", "people 4", map[string]any{"package": "Weather 10,000 calls", "plan": "10,000 calls", "amount": int64(99_000_000), "balance": int64(802_000_000), "spent": int64(198_000_000), "cap": int64(500_000_000), "link": "/services/01J"}},
	{"repurchase_failed", "repurchase", "MSG-15", map[string]any{"package": "Weather 10,000 calls", "plan": "10,000 calls", "code": "BALANCE_INSUFFICIENT", "next": "2026-12-01T02:15:00Z", "link": "/services/01J"}},
	{"repurchase_cap", "repurchase", "people 1b", map[string]any{"package": "Weather 10,000 calls", "percent": int64(80), "spent": int64(400_000_000), "cap": int64(500_000_000), "link": "/services/01J"}},
	{"payment_ahead", "balance", "MSG-30", map[string]any{"package": "Weather 10,000 calls", "amount": int64(99_000_000), "balance": int64(12_000_000), "link": "/balance"}},
	{"arrears", "balance", "PKG-29", map[string]any{"amount": int64(12_340_000), "until": "2026-12-01T16:00:00Z", "link": "/balance"}},
	{"frozen", "balance", "PKG-29", map[string]any{"amount": int64(12_340_000), "link": "/balance"}},
	{"resumed", "balance", "PKG-29", map[string]any{"balance": int64(50_000_000), "link": "/balance"}},
	{"address_failing", "security", "people 4", map[string]any{"receiver": "Accounting", "address": "a…@example.com", "code": "550", "link": "/messages/settings"}},
	{"endpoint_disabled", "security", "people 4", map[string]any{"url": "https://example.com/hook", "reason": "410", "link": "/messages/settings"}},
}

func category(name string) (Category, bool) {
	for _, c := range Categories {
		if c.Name == name {
			return c, true
		}
	}
	return Category{}, false
}

func kind(name string) (Kind, bool) {
	for _, k := range Kinds {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}
