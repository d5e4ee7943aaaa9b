package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestBearer: KEY-10 and the spellings clients use.
func TestBearer(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	const path = "/v1/infers/" + callInfer + "/v1/chat/completions"
	for _, tt := range []struct {
		name   string
		header []string
		status int
	}{
		{"plain", []string{"Authorization", "Bearer " + callKey}, 200},
		{"lower case", []string{"authorization", "bearer " + callKey}, 200},
		{"upper case", []string{"Authorization", "BEARER " + callKey}, 200},
		{"blanks", []string{"Authorization", "Bearer   " + callKey + "  "}, 200},
		{"x-api-key", []string{"X-Api-Key", callKey}, 200},
		{"none", nil, 401},
		{"empty", []string{"Authorization", "Bearer "}, 401},
		{"scheme alone", []string{"Authorization", "Bearer"}, 401},
		{"no scheme", []string{"Authorization", callKey}, 401},
		{"another scheme", []string{"Authorization", "Basic " + callKey}, 401},
		{"another scheme beside x-api-key", []string{"Authorization", "Basic abc", "X-Api-Key", callKey}, 401},
		{"unknown", []string{"Authorization", "Bearer sk-unknown"}, 401},
		{"one letter more", []string{"Authorization", "Bearer " + callKey + "0"}, 401},
		{"one letter less", []string{"Authorization", "Bearer " + callKey[:len(callKey)-1]}, 401},
		{"other case", []string{"Authorization", "Bearer " + strings.ToUpper(callKey)}, 401},
		{"an AppCode", []string{"Authorization", "Bearer " + appCode}, 401},
		{"in the query only", nil, 401},
	} {
		r := f.do("POST", path, hello, tt.header...)
		if r.StatusCode != tt.status {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
		if tt.status == 401 {
			if e := r.openAI(t); e.Code != "invalid_api_key" || r.Header.Get("Www-Authenticate") != "Bearer" {
				t.Errorf("%s: %+v, challenge %q", tt.name, e, r.Header.Get("Www-Authenticate"))
			}
		}
	}
}

// TestKeyComesFirst: KEY-11. Who has no valid key learns nothing about products
// and models; who has one gets the reason.
func TestKeyComesFirst(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		other := s.Products[0]
		other.ID, other.InferID = "P-OTHER", "33333333-3333-4333-8333-333333333333"
		s.Products = append(s.Products, other)
		s.APIKeys = append(s.APIKeys, directory.APIKey{ID: "K-ALL", Account: "BUYER", Hash: directory.Hash([]byte(pepper), "sk-all")})
	})
	const unknown = "44444444-4444-4444-8444-444444444444"
	for _, tt := range []struct {
		name, key, path, body string
		status                int
		code                  string
	}{
		{"unknown product, bad key", "sk-bad", "/v1/infers/" + unknown + "/v1/chat/completions", hello, 401, "invalid_api_key"},
		{"unknown product, no key", "", "/v1/infers/" + unknown + "/v1/chat/completions", hello, 401, "invalid_api_key"},
		{"bad body, bad key", "sk-bad", "/v1/infers/" + callInfer + "/v1/chat/completions", "{", 401, "invalid_api_key"},
		{"unknown path, no key", "", "/v1/nothing", "", 401, "invalid_api_key"},
		{"unknown product", "sk-all", "/v1/infers/" + unknown + "/v1/chat/completions", hello, 404, "unknown_url"},
		{"product not bought", "sk-all", "/v1/infers/33333333-3333-4333-8333-333333333333/v1/chat/completions", hello, 403, "not_subscribed"},
		{"product outside the allow-list", callKey, "/v1/infers/" + tokenInfer + "/v1/chat/completions", hello, 403, "not_subscribed"},
		{"product inside the allow-list", callKey, "/v1/infers/" + callInfer + "/v1/chat/completions", hello, 200, ""},
		{"no allow-list", "sk-all", "/v1/infers/" + tokenInfer + "/v1/chat/completions", hello, 200, ""},
		{"base URL without /v1", callKey, "/v1/infers/" + callInfer + "/chat/completions", hello, 404, "unknown_url"},
		{"base URL alone", callKey, "/v1/infers/" + callInfer, hello, 404, "unknown_url"},
		{"model decides", "sk-all", "/v1/chat/completions", hello, 200, ""},
		{"model of no product", "sk-all", "/v1/chat/completions", strings.ReplaceAll(hello, "demo-chat", "gpt-9"), 404, "model_not_found"},
		{"no model, several products", "sk-all", "/v1/files", "x", 400, "model_required"},
		{"no model, one product", callKey, "/v1/files", "x", 200, ""},
	} {
		var header []string
		if tt.key != "" {
			header = []string{"Authorization", "Bearer " + tt.key}
		}
		r := f.do("POST", tt.path, tt.body, header...)
		if r.StatusCode != tt.status || tt.code != "" && r.openAI(t).Code != tt.code {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
	}
}

// TestRevokedKey: KEY-7. A key is gone with the directory that no longer has
// it, also on a connection that used it, and its call under way goes on.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	mockURL := ""
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		mockURL = strings.TrimSuffix(s.Products[0].Upstreams[0].URL, "/v1")
	})
	if r := f.chat(hello); r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", f.url+"/v1/infers/"+callInfer+"/v1/chat/completions", strings.NewReader(helloStream))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+callKey)
	req.Header.Set("X-Mock-Chunks", "5")
	req.Header.Set("X-Mock-Chunk-Delay", "20ms")
	running, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Body.Close() }()

	next := snapshot(mockURL)
	next.Version = 2
	next.APIKeys = next.APIKeys[1:]
	if err := f.gateway.Swap(next); err != nil {
		t.Fatal(err)
	}
	if r := f.chat(hello); r.StatusCode != 401 {
		t.Errorf("the revoked key got %d", r.StatusCode)
	}
	if f.gateway.Version() != 2 {
		t.Errorf("version %d", f.gateway.Version())
	}
	var text strings.Builder
	if _, err := copyBody(&text, running); err != nil || !strings.HasSuffix(text.String(), "data: [DONE]\n\n") {
		t.Errorf("the call under way ended with %v: %q", err, text.String())
	}
	// A new pepper with keys hashed by it takes the old hashes out of force.
	next.Version, next.Pepper = 3, []byte("another")
	if err := f.gateway.Swap(next); err != nil {
		t.Fatal(err)
	}
	if r := f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+tokenKey); r.StatusCode != 401 {
		t.Errorf("a key of another pepper got %d", r.StatusCode)
	}
}
