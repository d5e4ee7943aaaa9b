package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// postOffice is a real SMTP server that keeps what it is given.
type postOffice struct {
	mu    sync.Mutex
	mails map[string]string // subject by Message-ID
	twice int               // mails that came again under their id
}

func startPostOffice(t *testing.T) (*postOffice, string) {
	t.Helper()
	p := &postOffice{mails: map[string]string{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(p)
	s.Domain = "mail.test"
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return p, "smtp+plain://" + ln.Addr().String()
}

func (p *postOffice) NewSession(*smtp.Conn) (smtp.Session, error) { return letterbox{p}, nil }

type letterbox struct{ p *postOffice }

func (letterbox) Mail(string, *smtp.MailOptions) error { return nil }
func (letterbox) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (letterbox) Reset()                               {}
func (letterbox) Logout() error                        { return nil }

func (l letterbox) Data(r io.Reader) error {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		return err
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	id := m.Header.Get("Message-Id")
	if _, again := l.p.mails[id]; again {
		l.p.twice++
	}
	l.p.mails[id] = subject
	return nil
}

// subjects counts the mails whose subject begins so.
func (p *postOffice) subjects(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.mails {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

// ask calls the admin API and decodes its answer into out.
func ask(t *testing.T, n *tollgate.Node, token, method, path, in string, out any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, n.Demo.AdminURL+"/api/v1"+path, strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if in != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, text, err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s: %s: %v", method, path, text, err)
		}
	}
}

// tryCall makes one chat call and returns its status, 0 where there was none.
func tryCall(t *testing.T, n *tollgate.Node) int {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.Demo.LLM.BaseURL+"/chat/completions",
		strings.NewReader(`{"model":"demo-chat","messages":[{"role":"user","content":"hello"}]}`))
	if err != nil {
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+n.Demo.LLM.APIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// repurchases are the orders that auto-repurchase made.
func repurchases(t *testing.T, n *tollgate.Node) (orders []string) {
	t.Helper()
	var page struct {
		Items []struct{ ID, Type, State string }
	}
	ask(t, n, n.Demo.BuyerToken, "GET", "/orders?limit=500", "", &page)
	for _, o := range page.Items {
		if o.Type == "auto_repurchase" {
			if o.State != "completed" {
				t.Fatalf("order %s is %s", o.ID, o.State)
			}
			orders = append(orders, o.ID)
		}
	}
	return orders
}

// crossed returns the crossings of a level that were told.
func crossed(t *testing.T, n *tollgate.Node, level string) (ids []string) {
	t.Helper()
	var page struct{ Items []struct{ ID string } }
	ask(t, n, n.Demo.BuyerToken, "GET", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/crossings?limit=500", "", &page)
	for _, c := range page.Items {
		if strings.Contains(c.ID, "/"+level+"/") {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// startRepurchasing starts a node whose buyer gets mails, has an alert and lets
// the platform repurchase at a level.
func startRepurchasing(t *testing.T, units int64, level string) (*tollgate.Node, *postOffice) {
	t.Helper()
	office, url := startPostOffice(t)
	n := tollgate.Start(t, tollgate.Options{Units: units, Env: []string{
		"TOLLGATE_NOTIFY_SMTP=" + url, "TOLLGATE_NOTIFY_FROM=Tollgate <notices@example.com>", "TOLLGATE_NOTIFY_GROUP_WAIT=0s",
		"TOLLGATE_QUOTA_SYNC=50ms", "TOLLGATE_QUOTA_CROSSINGS=20ms",
	}})
	var me struct {
		Account string `json:"account_id"`
	}
	ask(t, n, n.Demo.BuyerToken, "GET", "/me", "", &me)
	ask(t, n, n.Demo.OperatorToken, "PUT", "/accounts/"+me.Account+"/contact", `{"mail":"buyer@example.com","language":"en"}`, nil)
	ask(t, n, n.Demo.BuyerToken, "POST", "/agencies", `{"policy":"api_product_repurchase_policy"}`, nil)
	config := fmt.Sprintf(`{"threshold":%s,"day_limit":100,"agreement":"1.0"}`, level)
	var answer struct {
		Preview struct{ En string }
	}
	ask(t, n, n.Demo.BuyerToken, "POST", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/repurchase?dry_run=true", config, &answer)
	if !strings.Contains(answer.Preview.En, "At worst it spends") {
		t.Errorf("dry run: %+v", answer)
	}
	ask(t, n, n.Demo.BuyerToken, "POST", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/repurchase", config, nil)
	return n, office
}

// until waits for a state of the world.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	wait.Until(t, limit, what, func(context.Context) error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestAlertAndRepurchase is the whole way: calls through the gateway bring the
// package to 20 %; one notice arrives by mail, one order is paid from the
// balance, and no call is refused (ALERT-4, ALERT-20, REPO-2, REPO-20).
func TestAlertAndRepurchase(t *testing.T) {
	t.Parallel()
	n, office := startRepurchasing(t, 200, `{"kind":"percent","value":20}`)
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for i := range 200 + 40 { // beyond the first package, above 20 % of both
		if i > 150 {
			<-pace.C
		}
		if status := tryCall(t, n); status != http.StatusOK {
			t.Fatalf("call %d: %d", i, status)
		}
	}
	until(t, 30*time.Second, "the mails", func() bool { return office.subjects("20% left") > 0 && office.subjects("Repurchased") > 0 })
	if orders, told := repurchases(t, n), crossed(t, n, "percent-20"); len(orders) != 1 || len(told) != 1 {
		t.Errorf("%d orders for crossings %v", len(orders), told)
	}
	var q struct {
		Granted, Used int64
		Runway        struct{ Text string }
	}
	ask(t, n, n.Demo.BuyerToken, "GET", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/quota", "", &q)
	if q.Granted != 400 || q.Used != 240 {
		t.Errorf("%+v", q)
	}
	if a, b := office.subjects("20% left"), office.subjects("Repurchased"); a != 1 || b != 1 {
		t.Errorf("%d notices and %d receipts, want one of each", a, b)
	}
	var jobs struct{ Items []struct{ Name string } }
	ask(t, n, n.Demo.OperatorToken, "GET", "/jobs", "", &jobs)
	if len(jobs.Items) == 0 {
		t.Error("no jobs run")
	}
}

// TestRepurchaseUnderKills: the process dies by SIGKILL at random while calls
// use packages up, notices go out and orders are made. In the end each crossing
// has one order, one notice and one receipt, and the books have no drift.
func TestRepurchaseUnderKills(t *testing.T) {
	t.Parallel()
	n, office := startRepurchasing(t, 60, `{"kind":"absolute","value":40}`)
	ask(t, n, n.Demo.BuyerToken, "PUT", "/alerts", `{"enabled":true,"threshold":{"kind":"absolute","value":40}}`, nil)
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for round := range 5 {
		dies := 20 + rand.IntN(60)
		for i := range dies {
			<-pace.C
			// The last calls are under way when the process dies.
			if status := tryCall(t, n); status != http.StatusOK {
				t.Fatalf("round %d, call %d of %d: %d", round, i, dies, status)
			}
		}
		<-time.After(rand.N(120 * time.Millisecond))
		n.Kill()
		n.Restart()
	}
	level := "absolute-40"
	until(t, 60*time.Second, "rest", func() bool {
		orders, told := repurchases(t, n), crossed(t, n, level)
		return len(told) > 0 && len(orders) == len(told) && office.subjects("40 left") == len(told) && office.subjects("Repurchased") == len(orders)
	})
	orders, told := repurchases(t, n), crossed(t, n, level)
	var tries struct {
		Items []struct {
			Crossing string `json:"crossing_id"`
			Order    string `json:"order_id"`
		}
	}
	ask(t, n, n.Demo.BuyerToken, "GET", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/repurchase/tries?limit=500", "", &tries)
	per := map[string]int{}
	for _, try := range tries.Items {
		per[try.Crossing]++
	}
	for _, c := range told {
		if per[c] != 1 {
			t.Errorf("%d orders for crossing %s", per[c], c)
		}
	}
	until(t, 60*time.Second, "complete books", func() bool {
		var books struct {
			Complete bool
			Drift    int64
		}
		ask(t, n, n.Demo.OperatorToken, "GET", "/reconciliation", "", &books)
		return books.Complete && books.Drift == 0
	})
	t.Logf("%d crossings, %d orders, %d mails came twice under their id", len(told), len(orders), office.twice)
}
