package gateway_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestModelNames: each upstream is sent the model's name as it knows it, every
// other byte as the client sent it, also when a call goes from one to another;
// and answers name the model as the caller did, where the product says so.
func TestModelNames(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 100)
	answer := func(p *peer, body, model string) {
		if strings.Contains(body, `"stream":true`) {
			chunk := fmt.Sprintf(`data: {"id":"1","model":%q,"choices":[{"index":0,"delta":{"content":"model"}}]}`+"\n\n", model)
			p.say("HTTP/1.1 200 OK\nContent-Type: text/event-stream\nConnection: close\n\n%sdata: [DONE]\n\n", chunk+chunk)
			return
		}
		text := fmt.Sprintf(`{"id":"1", "model":%q,"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`, model)
		p.say("HTTP/1.1 200 OK\nContent-Type: application/json\nConnection: close\nContent-Length: %d\n\n%s", len(text), text)
	}
	url := func(name string, fails bool) string {
		return upstreamOf(t, func(p *peer) {
			for {
				_, body, err := p.request()
				if err != nil {
					return
				}
				bodies <- name + " " + body
				if fails {
					p.say(unavailable)
					continue
				}
				answer(p, body, name+"-large-2026")
				return
			}
		})
	}
	a, b := url("a", true), url("b", false)
	f := startAt(t, a, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[0].Upstreams = []directory.Upstream{
			{ID: "a", URL: a, Weight: 65536, Models: []directory.Model{{Name: "demo-chat", Upstream: "a-large"}}},
			{ID: "b", URL: b, Weight: 1, Models: []directory.Model{{Name: "alias", Upstream: "b-alias"}}},
		}
		s.Products[0].Traffic = directory.Traffic{MapModelBack: true, Retry: directory.TrafficRetry{Statuses: []int{503}, Post: "always", Backoff: 1}, Breaker: directory.TrafficBreaker{Off: true}, Outlier: directory.TrafficOutlier{Off: true}}
	})
	for _, tt := range []struct{ model, a, b string }{
		{"demo-chat", "a-large", "demo-chat"},
		{"alias", "demo-chat", "b-alias"},
	} {
		body := `{ "model" : "` + tt.model + `" , "messages":[ {"role":"user","content":"model"}] }`
		r := f.chat(body)
		if r.StatusCode != 200 || !strings.Contains(r.body, `"1", "model":"`+tt.model+`","usage"`) || r.ContentLength != int64(len(r.body)) {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
		want := func(up, model string) string { return up + " " + strings.Replace(body, tt.model, model, 1) }
		got := []string{<-bodies}
		if strings.HasPrefix(got[0], "a") {
			got = append(got, <-bodies)
			if got[0] != want("a", tt.a) {
				t.Errorf("a was sent %s", got[0])
			}
		}
		if last := got[len(got)-1]; last != want("b", tt.b) {
			t.Errorf("b was sent %s, want %s", last, want("b", tt.b))
		}
	}
	r := f.chat(`{"model":"alias","stream":true,"messages":[{"role":"user","content":"x"}]}`)
	if n := strings.Count(r.body, `"model":"alias"`); n != 2 || strings.Contains(r.body, "b-large") || !strings.HasSuffix(r.body, "data: [DONE]\r\n\r\n") {
		t.Errorf("%q", r.body)
	}
}

// TestUpstreamTLS: an upstream's certificate is checked against its own CA and
// name, and a wrong one is an upstream that cannot be reached.
func TestUpstreamTLS(t *testing.T) {
	t.Parallel()
	names := make(chan string, 100)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	srv.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- h.ServerName
		return nil, nil
	}}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	for _, tt := range []struct {
		name   string
		tls    directory.UpstreamTLS
		status int
		sni    string
	}{
		{"its CA and name", directory.UpstreamTLS{CA: ca, ServerName: "example.com"}, 200, "example.com"},
		{"its CA, by address", directory.UpstreamTLS{CA: ca}, 200, ""},
		{"another name", directory.UpstreamTLS{CA: ca, ServerName: "other.test"}, 502, "other.test"},
		{"the system's roots", directory.UpstreamTLS{ServerName: "example.com"}, 502, "example.com"},
		{"unchecked", directory.UpstreamTLS{SkipVerify: true}, 200, ""},
	} {
		f := startAt(t, srv.URL, func(_ *gateway.Config, s *directory.Snapshot) {
			for i := range s.Products {
				s.Products[i].Upstreams[0].TLS = tt.tls
			}
		})
		r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode)
		if r.StatusCode != tt.status || tt.status == 200 && r.body != "HTTP/1.1" {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
		if sni := await(t, names, "a handshake"); sni != tt.sni {
			t.Errorf("%s: asked for %q", tt.name, sni)
		}
	}
	f := serve(t, gateway.Config{})
	s := snapshot(srv.URL)
	s.Products[2].Upstreams[0].TLS.CA = "no certificate"
	if err := f.gateway.Swap(s); err == nil || !strings.Contains(err.Error(), "PEM") {
		t.Errorf("a CA that is none: %v", err)
	}
}

// TestSessionAffinity: calls of one session go to one upstream, those without to
// any.
func TestSessionAffinity(t *testing.T) {
	t.Parallel()
	for _, by := range []string{directory.AffinityHeader, directory.AffinityUser, directory.AffinityPrompt, directory.AffinityCredential} {
		f := start(t, nil)
		s := snapshot(f.mockURL)
		s.Version = 2
		s.Products[0].Traffic.Affinity = directory.TrafficAffinity{By: by, Prefix: 40}
		s.Products[0].Upstreams = nil
		for i := range 4 {
			s.Products[0].Upstreams = append(s.Products[0].Upstreams, directory.Upstream{ID: fmt.Sprint(i), URL: fmt.Sprintf("%s/p%d/v1", f.mockURL, i)})
		}
		if err := f.gateway.Swap(s); err != nil {
			t.Fatal(err)
		}
		used := func() (n int) {
			for _, u := range f.gateway.Upstreams() {
				if u.Product == "P-CALL" && u.Attempts > 0 {
					n++
				}
			}
			return n
		}
		for n := range 12 {
			body := fmt.Sprintf(`{"model":"demo-chat","user":"anna","messages":[{"role":"system","content":"a long beginning that stays"},{"role":"user","content":"%d"}]}`, n)
			if r := f.chat(body, "X-Session-Id", "anna"); r.StatusCode != 200 {
				t.Fatal(r.StatusCode, r.body)
			}
		}
		if n := used(); n != 1 {
			t.Errorf("%s: one session used %d upstreams", by, n)
		}
		if by == directory.AffinityCredential {
			continue
		}
		for n := range 60 {
			body := fmt.Sprintf(`{"model":"demo-chat","user":"u%d","messages":[{"role":"user","content":"%d %d"}]}`, n, n, n)
			f.chat(body, "X-Session-Id", fmt.Sprint(n))
		}
		if n := used(); n != 4 {
			t.Errorf("%s: sixty sessions used %d upstreams", by, n)
		}
	}
}
