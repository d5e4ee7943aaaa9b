package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Demo is the part of demo.json a load needs (design section 5).
type Demo struct {
	AdminURL        string  `json:"admin_url"`
	OperatorToken   string  `json:"operator_token"`
	LLM             DemoLLM `json:"llm"`
	LLMTokens       DemoLLM `json:"llm_tokens"`
	API             DemoAPI `json:"api"`
	MockUpstreamURL string  `json:"mock_upstream_url"`
}

// DemoLLM is one of the demo's LLM products.
type DemoLLM struct {
	BaseURL        string `json:"base_url"`
	APIKey         string `json:"api_key"`
	Model          string `json:"model"`
	SubscriptionID string `json:"subscription_id"`
}

// DemoAPI is the demo's API product.
type DemoAPI struct {
	URL            string `json:"url"`
	HTTPSURL       string `json:"https_url"`
	AppKey         string `json:"app_key"`
	AppSecret      string `json:"app_secret"`
	AppCode        string `json:"app_code"`
	SubscriptionID string `json:"subscription_id"`
}

// ReadDemo reads the demo.json that `tollgate serve --demo` wrote.
func ReadDemo(path string) (d Demo, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return d, fmt.Errorf("%w: start the demo first with tollgate serve --demo", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("%s: %w: give the demo.json that tollgate serve --demo wrote", path, err)
	}
	if d.LLM.BaseURL == "" {
		return d, fmt.Errorf("%s holds no gateway address: start the demo with --role all", path)
	}
	return d, nil
}

// Scenarios returns the mix of calls of the acceptance run: every kind of
// credential, streams, and every class of status. The weights add up to 100.
// Token packages have a small share: each of their calls costs 46 units.
func (d Demo) Scenarios() []Scenario {
	const tokens = defaultPrompt + defaultCompletion
	llm := func(name string, weight int, p DemoLLM, units int64, body string, headers ...string) Scenario {
		path := "/chat/completions"
		if strings.Contains(name, "embeddings") {
			path = "/embeddings"
		}
		return Scenario{
			Name: name, Weight: weight, URL: p.BaseURL + path, Headers: headers,
			Body: fmt.Sprintf(`{"model":%q,%s}`, p.Model, body), Stream: strings.Contains(body, `"stream":true`),
			Auth: Auth{Kind: AuthAPIKey, Key: p.APIKey}, Subscription: p.SubscriptionID, Units: units,
		}
	}
	api := func(name string, weight int, auth Auth, target, body string, headers ...string) Scenario {
		base := d.API.URL
		if auth.Kind == AuthAppCode {
			base = d.API.HTTPSURL // simple authentication is for https only (AUTH-6)
		}
		return Scenario{
			Name: name, Weight: weight, URL: base + target, Headers: headers, Body: body,
			Auth: auth, Subscription: d.API.SubscriptionID, Units: 1,
		}
	}
	signature := Auth{Kind: AuthSignature, Key: d.API.AppKey, Secret: d.API.AppSecret}
	const chat = `"messages":[{"role":"user","content":"What is counted once?"}]`
	return []Scenario{
		llm("chat", 30, d.LLM, 1, chat),
		llm("stream", 20, d.LLM, 1, chat+`,"stream":true,"stream_options":{"include_usage":false}`, "X-Mock-Chunks: 20"),
		llm("embeddings", 5, d.LLM, 1, `"input":["a","b"]`),
		llm("chat-400", 5, d.LLM, 1, chat, "X-Mock-Status: 400"),
		llm("chat-404", 3, d.LLM, 1, chat, "X-Mock-Status: 404"),
		llm("chat-429", 5, d.LLM, 1, chat, "X-Mock-Status: 429"),
		llm("chat-500", 5, d.LLM, 1, chat, "X-Mock-Status: 500"),
		llm("stream-503", 4, d.LLM, 1, chat+`,"stream":true`, "X-Mock-Status: 503"),
		llm("tokens", 1, d.LLMTokens, tokens, chat),
		llm("tokens-stream", 1, d.LLMTokens, tokens, chat+`,"stream":true`),
		api("signature", 9, signature, "/now?city=Bonn&lang=zh", ""),
		api("signature-post", 4, signature, "/report", `{"city":"Bonn"}`),
		api("signature-500", 2, signature, "/now", "", "X-Mock-Status: 500"),
		api("appcode", 6, Auth{Kind: AuthAppCode, Key: d.API.AppCode}, "/now", ""),
	}
}

// Mix picks scenarios from all by "name=weight,…", or all of them for "".
func Mix(all []Scenario, spec string) ([]Scenario, error) {
	if spec == "" {
		return all, nil
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	var picked []Scenario
	for part := range strings.SplitSeq(spec, ",") {
		name, weight, found := strings.Cut(strings.TrimSpace(part), "=")
		n := 1
		if found {
			var err error
			if n, err = strconv.Atoi(weight); err != nil || n < 1 {
				return nil, fmt.Errorf("mix %q: the weight of %s must be a whole number from 1", spec, name)
			}
		}
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("mix %q: there is no scenario %q, use some of %s", spec, name, strings.Join(names, ", "))
		}
		s := all[i]
		s.Weight = n
		picked = append(picked, s)
	}
	return picked, nil
}

// Books compares what was charged with what happened: the used units of every
// subscription called with the 2xx answers the clients saw and the mock gave.
type Books struct {
	Subscriptions map[string]SubscriptionBooks `json:"subscriptions"`
	Mock2xx       int64                        `json:"mock_2xx"`
	Client2xx     int64                        `json:"client_2xx"`
	ChargedCalls  int64                        `json:"charged_calls"` // used units in calls
	Unknown       int64                        `json:"unknown"`       // calls whose answer never came
	Drift         int64                        `json:"drift"`         // ChargedCalls - Mock2xx
	OK            bool                         `json:"ok"`
}

// SubscriptionBooks are the books of one subscription over the run.
type SubscriptionBooks struct {
	UnitsPerCall int64 `json:"units_per_call"`
	Client2xx    int64 `json:"client_2xx"`
	Expected     int64 `json:"expected"` // Client2xx in units
	Used         int64 `json:"used"`     // with the overrun
	Drift        int64 `json:"drift"`    // Used - Expected
}

// settleTime is how long [Audit.Close] waits for what is still on its way from
// the journal to the quota store.
const settleTime = 20 * time.Second

// Audit keeps the books of a load against a demo: open it before the load,
// close it after.
type Audit struct {
	demo   Demo
	client *http.Client
	used   map[string]int64
	mock   Stats
	subs   map[string]int64 // subscription → units of a call
}

// OpenAudit reads the counters before the load.
func OpenAudit(ctx context.Context, d Demo, scenarios []Scenario) (*Audit, error) {
	a := &Audit{demo: d, client: &http.Client{Timeout: 10 * time.Second}, subs: make(map[string]int64)}
	for _, s := range scenarios {
		if s.Subscription == "" || s.Units < 1 {
			return nil, fmt.Errorf("scenario %q names no subscription: only the demo's own scenarios can be checked", s.Name)
		}
		if u, ok := a.subs[s.Subscription]; ok && u != s.Units {
			return nil, fmt.Errorf("scenario %q charges %d units a call and another of its subscription %d: they cannot be told apart", s.Name, s.Units, u)
		}
		a.subs[s.Subscription] = s.Units
	}
	var err error
	if a.used, err = a.usedNow(ctx); err != nil {
		return nil, err
	}
	a.mock, err = a.mockNow(ctx)
	return a, err
}

// Close reads the counters after the load, waiting while they still move
// towards the expected figures, and compares.
func (a *Audit) Close(ctx context.Context, in []Scenario, res LoadResult) (Books, error) {
	deadline := time.Now().Add(settleTime)
	for {
		b, err := a.compare(ctx, in, res)
		if err != nil || b.OK || time.Now().After(deadline) {
			return b, err
		}
		if !wait(100*time.Millisecond, ctx.Done()) {
			return b, ctx.Err()
		}
	}
}

func (a *Audit) compare(ctx context.Context, in []Scenario, res LoadResult) (Books, error) {
	used, err := a.usedNow(ctx)
	if err != nil {
		return Books{}, err
	}
	mock, err := a.mockNow(ctx)
	if err != nil {
		return Books{}, err
	}
	b := Books{Subscriptions: make(map[string]SubscriptionBooks), Mock2xx: mock.Total2xx - a.mock.Total2xx, Unknown: res.Unknown}
	for _, s := range in {
		n := res.ByName[s.Name].OK2xx
		sb := b.Subscriptions[s.Subscription]
		sb.UnitsPerCall = s.Units
		sb.Client2xx += n
		sb.Expected += n * s.Units
		b.Subscriptions[s.Subscription] = sb
		b.Client2xx += n
	}
	b.OK = true
	for _, id := range slices.Sorted(maps.Keys(b.Subscriptions)) {
		sb := b.Subscriptions[id]
		sb.Used = used[id] - a.used[id]
		sb.Drift = sb.Used - sb.Expected
		b.Subscriptions[id] = sb
		b.ChargedCalls += sb.Used / sb.UnitsPerCall
		// What a client never saw the answer of may or may not be charged here;
		// the mock knows, so the sum below still has to be right.
		b.OK = b.OK && sb.Used%sb.UnitsPerCall == 0 && sb.Drift >= 0 && sb.Drift <= b.Unknown*sb.UnitsPerCall
	}
	b.Drift = b.ChargedCalls - b.Mock2xx
	b.OK = b.OK && b.Drift == 0
	return b, nil
}

// usedNow reads used plus overrun of every subscription: what was charged in
// all.
func (a *Audit) usedNow(ctx context.Context) (map[string]int64, error) {
	used := make(map[string]int64)
	for id := range a.subs {
		var q struct{ Used, Overrun int64 }
		if err := a.get(ctx, a.demo.AdminURL+"/api/v1/subscriptions/"+id+"/quota", a.demo.OperatorToken, &q); err != nil {
			return nil, err
		}
		used[id] = q.Used + q.Overrun
	}
	return used, nil
}

func (a *Audit) mockNow(ctx context.Context) (s Stats, err error) {
	err = a.get(ctx, a.demo.MockUpstreamURL+pathStats, "", &s)
	return s, err
}

func (a *Audit) get(ctx context.Context, url, token string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %.200s", url, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}
