package accuracy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// control is the admin API as the trials use it: as the operator.
type control struct {
	addr  string
	token string
}

// quota is the balance of a subscription in one unit.
type quota struct {
	Granted   int64 `json:"granted"`
	Used      int64 `json:"used"`
	Leased    int64 `json:"leased"`
	Remaining int64 `json:"remaining"`
	Lapsed    int64 `json:"lapsed"`
	Overrun   int64 `json:"overrun"`
}

func (c *control) quota(ctx context.Context, subscription string) (q quota, err error) {
	err = c.do(ctx, http.MethodGet, "/subscriptions/"+subscription+"/quota", nil, &q)
	return q, err
}

// charged returns what the usage rows of a subscription sum up to in a unit,
// the overrun included.
func (c *control) charged(ctx context.Context, subscription, unit string) (int64, error) {
	var u struct {
		Total struct {
			Charged map[string]int64 `json:"charged"`
			Overrun map[string]int64 `json:"overrun"`
		} `json:"total"`
	}
	now := time.Now()
	q := url.Values{"group_by": {"status"}, "from": {now.AddDate(-2, 0, 0).Format(time.RFC3339)}, "to": {now.AddDate(2, 0, 0).Format(time.RFC3339)}}
	err := c.do(ctx, http.MethodGet, "/subscriptions/"+subscription+"/usage?"+q.Encode(), nil, &u)
	return u.Total.Charged[unit] + u.Total.Overrun[unit], err
}

// row is the usage row of one call.
type row struct {
	Subscription string           `json:"subscription_id"`
	Counted      bool             `json:"counted"`
	Overrun      map[string]int64 `json:"overrun"`
	Charges      []struct {
		Unit   string `json:"unit"`
		Amount int64  `json:"amount"`
	} `json:"charges"`
}

// row returns the usage row of a call, and whether there is one.
func (c *control) row(ctx context.Context, id string) (r row, found bool, err error) {
	err = c.do(ctx, http.MethodGet, "/usage/requests/"+id, nil, &r)
	if s := (*statusError)(nil); errors.As(err, &s) && s.status == http.StatusNotFound {
		return r, false, nil
	}
	return r, err == nil, err
}

// reconciliation is the program's own comparison.
type reconciliation struct {
	Complete bool  `json:"complete"`
	Drift    int64 `json:"drift"`
}

func (c *control) reconciliation(ctx context.Context) (r reconciliation, err error) {
	err = c.do(ctx, http.MethodGet, "/reconciliation", nil, &r)
	return r, err
}

// buy buys packages of the subscription's first spec once more and returns when
// they are delivered.
func (c *control) buy(ctx context.Context, subscription string, packages int) error {
	var sub struct {
		Account string `json:"account_id"`
	}
	if err := c.do(ctx, http.MethodGet, "/subscriptions/"+subscription, nil, &sub); err != nil {
		return err
	}
	var orders struct {
		Items []struct {
			Spec         string `json:"spec_id"`
			Subscription string `json:"subscription_id"`
		} `json:"items"`
	}
	if err := c.do(ctx, http.MethodGet, "/orders?limit=100&account_id="+sub.Account, nil, &orders); err != nil {
		return err
	}
	for _, o := range orders.Items {
		if o.Subscription != subscription {
			continue
		}
		var placed struct {
			State string `json:"state"`
		}
		err := c.do(ctx, http.MethodPost, "/orders", map[string]any{"account_id": sub.Account, "spec_id": o.Spec, "quantity": packages}, &placed)
		if err == nil && placed.State != "completed" && placed.State != "processing" {
			err = fmt.Errorf("the order is %s", placed.State)
		}
		return err
	}
	return fmt.Errorf("subscription %s has no order", subscription)
}

// statusError is an answer of the admin API that is no success.
type statusError struct {
	path   string
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("admin API: %s: status %d: %s", e.path, e.status, e.text)
}

func (c *control) do(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.addr+"/api/v1"+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPatch {
		req.Header.Set("If-Match", "*")
	}
	resp, err := adminClient.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &statusError{path, resp.StatusCode, string(text[:min(len(text), 300)])}
	}
	return json.Unmarshal(text, into)
}

// adminClient keeps its connections: thousands of rows may be asked for. It
// does not keep them for long: the other end is killed now and then.
var adminClient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: 2 * time.Second}}
