package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// TestRevokedKeysStopEverywhere: a deleted API key is refused by every node
// within 5 seconds (KEY-7).
func TestRevokedKeysStopEverywhere(t *testing.T) {
	t.Parallel()
	const within = 5 * time.Second
	secret := strings.Repeat("feed", 8)
	store := startRedis(t)
	first := tollgate.Start(t, tollgate.Options{QuotaStore: store, FeedSecret: secret, Name: "first"})
	second := tollgate.Start(t, tollgate.Options{
		Role: "gateway", QuotaStore: store, FeedSecret: secret, Name: "second", AdminURL: first.Demo.AdminURL,
	})
	products := []tollgate.LLM{first.Demo.LLM, moved(t, first.Demo.LLM, second.Demo.GatewayURL)}
	for i, p := range products {
		if status := chat(t, p, nil); status != http.StatusOK {
			t.Fatalf("node %d before the revocation: status %d", i, status)
		}
	}
	revoke(t, first, first.Demo.LLM.APIKey)
	revoked := time.Now()
	for i, p := range products {
		wait.Until(t, within, fmt.Sprintf("node %d to refuse the key", i), func(context.Context) error {
			if status := chat(t, p, nil); status != http.StatusUnauthorized {
				return fmt.Errorf("status %d %s after the revocation", status, time.Since(revoked))
			}
			return nil
		})
	}
	t.Logf("refused by all nodes %s after the revocation", time.Since(revoked))
}

// moved returns a product as another gateway serves it.
func moved(t *testing.T, p tollgate.LLM, gateway string) tollgate.LLM {
	t.Helper()
	u, err := url.Parse(p.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	p.BaseURL = gateway + u.Path
	return p
}

// revoke deletes the buyer's API key with the given secret.
func revoke(t *testing.T, n *tollgate.Node, secret string) {
	t.Helper()
	var keys struct {
		Items []struct {
			ID     string `json:"id"`
			Prefix string `json:"prefix"`
			Suffix string `json:"suffix"`
		} `json:"items"`
	}
	if _, err := admin(t.Context(), n, n.Demo.BuyerToken, http.MethodGet, "/api/v1/api-keys", nil, &keys); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys.Items {
		if strings.HasPrefix(secret, key.Prefix) && strings.HasSuffix(secret, key.Suffix) {
			if _, err := admin(t.Context(), n, n.Demo.BuyerToken, http.MethodDelete, "/api/v1/api-keys/"+key.ID, nil, nil); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("the buyer has no key like that among %+v", keys.Items)
}
