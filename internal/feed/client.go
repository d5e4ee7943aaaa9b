package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// newClient returns a client that never uses a proxy (the feed is internal),
// never follows a redirect (its proof would not fit) and does not unpack: the
// sealed form is compressed already.
func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			TLSHandshakeTimeout: 5 * time.Second,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     90 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// refusal turns an answer that is not a success into an error. The text of a
// problem (RFC 9457) is taken over, since it names the remedy.
func refusal(res *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, 16<<10))
	var problem struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) == nil && problem.Code != "" {
		switch problem.Code {
		case CodeProof:
			return ErrProof
		case CodeSkew:
			return ErrSkew
		}
		return fmt.Errorf("feed: the admin role answered %d %s: %s", res.StatusCode, problem.Code, problem.Detail)
	}
	if res.StatusCode == http.StatusNotFound {
		return errors.New("feed: there is no admin role at the admin address (404): check --admin-url")
	}
	return fmt.Errorf("feed: the admin role answered %s", res.Status)
}

// The problem codes the admin role gives for ErrProof and ErrSkew.
const (
	CodeProof = "FEED_PROOF"
	CodeSkew  = "FEED_SKEW"
)
