package bench

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

func TestLoadSmoke(t *testing.T) {
	u, url := startUpstream(t)
	in := LoadInput{Connections: 16, Requests: 5000, Scenarios: []Scenario{
		{Name: "chat", Weight: 5, URL: url + "/v1/chat/completions", Body: chatBody},
		{Name: "stream", Weight: 3, URL: url + "/v1/chat/completions", Stream: true, Body: `{"model":"m","stream":true,"messages":[]}`},
		{Name: "503", Weight: 1, URL: url + "/v1/chat/completions", Body: chatBody, Headers: []string{"X-Mock-Status: 503"}},
		{Name: "404", Weight: 1, URL: url + "/x", Headers: []string{"X-Mock-Status: 404"}},
	}}
	r, err := Load(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.MarshalIndent(r, "", " ")
	t.Logf("%s", b)
	s := u.Stats()
	if r.OK2xx != 4000 || s.Total2xx != 4000 || r.StreamsComplete != 1500 || r.C5xx != 500 || r.C4xx != 500 || r.Errors != 0 {
		t.Errorf("%+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, err = Load(ctx, LoadInput{Connections: 2, Requests: 5, Scenarios: []Scenario{{Name: "slow", URL: url + "/", Headers: []string{"X-Mock-Latency: 1h"}}}})
	if err != nil || r.Classes[failCanceled] != 2 {
		t.Errorf("%v %+v", err, r)
	}
}
