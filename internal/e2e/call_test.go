package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"tollgate/internal/testkit/tollgate"
)

const (
	chatBody   = `{"model":"demo-chat","messages":[{"role":"user","content":"Say something."}]}`
	streamBody = `{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"Say something."}]}`
)

// steer is a set of headers for the mock upstream, and any others.
type steer map[string]string

// insecure calls the https port with its self-signed certificate.
var insecure = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// newRequest returns a request; a body makes it a POST of JSON.
func newRequest(t testing.TB, url, body string, headers steer) *http.Request {
	t.Helper()
	method, reader := http.MethodGet, io.Reader(nil)
	if body != "" {
		method, reader = http.MethodPost, strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	return req
}

// send sends a request to its end and returns the answer with its body read.
func send(t testing.TB, client *http.Client, req *http.Request) (*http.Response, []byte) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v after %q", req.Method, req.URL, err, body)
	}
	return resp, bytes.TrimSpace(body)
}

// chatRequest returns a chat completion of an LLM product of the demo.
func chatRequest(t testing.TB, p tollgate.LLM, body string, headers steer) *http.Request {
	t.Helper()
	req := newRequest(t, p.BaseURL+"/chat/completions", strings.ReplaceAll(body, "demo-chat", p.Model), headers)
	req.Header.Set("Authorization", "Bearer "+p.APIKey)
	return req
}

// chat makes one chat completion and returns its status.
func chat(t testing.TB, p tollgate.LLM, headers steer) int {
	t.Helper()
	resp, _ := send(t, http.DefaultClient, chatRequest(t, p, chatBody, headers))
	return resp.StatusCode
}
