package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/testkit/node"
	"tollgate/internal/testkit/tollgate"
)

// product is what the Node.js scripts need to call an LLM product.
type product struct {
	BaseURL string `json:"base_url"`
	APIKey  string `json:"api_key"`
	Model   string `json:"model"`
}

func productOf(p tollgate.LLM) product { return product{p.BaseURL, p.APIKey, p.Model} }

// sdkError is how the OpenAI SDK for Node.js told of a failed call.
type sdkError struct {
	Name      string `json:"name"` // the SDK's class
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Type      string `json:"type"`
	RequestID bool   `json:"request_id"`
	Attempts  int    `json:"attempts"`
}

type sdkStream struct {
	Chunks         int  `json:"chunks"`
	Text           int  `json:"text"`
	WithoutChoices int  `json:"without_choices"`
	WithUsage      int  `json:"with_usage"`
	Usage          int  `json:"usage"`
	Finished       bool `json:"finished"`
}

type sdkText struct {
	Text  bool `json:"text"`
	Usage int  `json:"usage"`
}

type sdkResult struct {
	Chat struct {
		Text      bool   `json:"text"`
		Usage     int    `json:"usage"`
		RequestID bool   `json:"request_id"`
		Charged   string `json:"charged"`
	} `json:"chat"`
	Stream        sdkStream `json:"stream"`
	StreamUsage   sdkStream `json:"stream_usage"`
	StreamNoUsage sdkStream `json:"stream_no_usage"`
	Completion    sdkText   `json:"completion"`
	Embeddings    struct {
		Vectors int  `json:"vectors"`
		Numbers bool `json:"numbers"`
	} `json:"embeddings"`
	Models          []string `json:"models"`
	Responses       sdkText  `json:"responses"`
	ResponsesStream struct {
		Deltas bool `json:"deltas"`
		Usage  int  `json:"usage"`
	} `json:"responses_stream"`

	BadKey       sdkError `json:"bad_key"`
	BadModel     sdkError `json:"bad_model"`
	BadRequest   sdkError `json:"bad_request"`
	UpstreamDown sdkError `json:"upstream_down"`
	Exhausted    sdkError `json:"exhausted"`
	BrokenStream sdkError `json:"broken_stream"`

	DryStream    sdkDry `json:"dry_stream"`
	DryResponses sdkDry `json:"dry_responses"`
}

// sdkDry is how the SDK told of a stream that outran its package.
type sdkDry struct {
	sdkError
	Events int `json:"events"` // that it gave its user before
}

// TestOpenAISDKForNode proves that an unmodified SDK works (LLM-1, KEY-10),
// that its error classes are the ones its users catch, and that only answered
// calls are charged (METER-3).
func TestOpenAISDKForNode(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	used := tollgate.Start(t, tollgate.Options{Units: 1})
	if status := chat(t, used.Demo.LLM, nil); status != 200 {
		t.Fatalf("the only call of the small package: status %d", status)
	}

	const tokens = 200 // of the packages that streams run dry
	dry := []*tollgate.Node{tollgate.Start(t, tollgate.Options{Units: tokens}), tollgate.Start(t, tollgate.Options{Units: tokens})}

	var got sdkResult
	node.Run(t, "openai.mjs", map[string]any{
		"base_url": n.Demo.LLM.BaseURL, "api_key": n.Demo.LLM.APIKey, "model": n.Demo.LLM.Model,
		"exhausted": productOf(used.Demo.LLM),
		"dry":       map[string]product{"dry_stream": productOf(dry[0].Demo.LLMTokens), "dry_responses": productOf(dry[1].Demo.LLMTokens)},
	}, &got)

	const total = 46 // X-Mock-Tokens: 12,34
	if !got.Chat.Text || got.Chat.Usage != total || !got.Chat.RequestID || got.Chat.Charged != "call=1" {
		t.Errorf("chat: %+v", got.Chat)
	}
	for _, tc := range []struct {
		name  string
		got   sdkStream
		usage bool
	}{
		{name: "without options", got: got.Stream},
		{name: "include_usage true", got: got.StreamUsage, usage: true},
		// The gateway asks the upstream for usage all the same and takes the
		// extra chunk out.
		{name: "include_usage false", got: got.StreamNoUsage},
	} {
		want := sdkStream{Chunks: tc.got.Chunks, Text: tc.got.Text, Finished: true}
		if tc.usage {
			want.WithoutChoices, want.WithUsage, want.Usage = 1, 1, total
		}
		if diff := cmp.Diff(want, tc.got); diff != "" || tc.got.Text < 10 {
			t.Errorf("stream %s: %+v %s", tc.name, tc.got, diff)
		}
	}
	if want := (sdkText{Text: true, Usage: total}); got.Completion != want || got.Responses != want {
		t.Errorf("completion %+v, responses %+v, want %+v", got.Completion, got.Responses, want)
	}
	if !got.ResponsesStream.Deltas || got.ResponsesStream.Usage != total {
		t.Errorf("streamed responses: %+v", got.ResponsesStream)
	}
	if got.Embeddings.Vectors != 2 || !got.Embeddings.Numbers {
		t.Errorf("embeddings: %+v", got.Embeddings)
	}
	if diff := cmp.Diff([]string{n.Demo.LLM.Model}, got.Models); diff != "" {
		t.Errorf("models: %s", diff)
	}
	for _, tc := range []struct {
		name      string
		got, want sdkError
	}{
		{name: "bad key", got: got.BadKey, want: sdkError{Name: "AuthenticationError", Status: 401, Code: "invalid_api_key", Type: "invalid_request_error", RequestID: true, Attempts: 1}},
		{name: "bad model", got: got.BadModel, want: sdkError{Name: "NotFoundError", Status: 404, Code: "model_not_found", Type: "invalid_request_error", RequestID: true, Attempts: 1}},
		// The SDK does not ask again for what was not paid: x-should-retry.
		{name: "used-up package", got: got.Exhausted, want: sdkError{Name: "RateLimitError", Status: 429, Code: "insufficient_quota", Type: "insufficient_quota", RequestID: true, Attempts: 1}},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
	// What the upstream answers is passed on in its own words.
	if got.BadRequest.Name != "BadRequestError" || got.BadRequest.Attempts != 1 {
		t.Errorf("upstream status 400: %+v", got.BadRequest)
	}
	if got.UpstreamDown.Name != "InternalServerError" || got.UpstreamDown.Status != 503 || got.UpstreamDown.Attempts != 2 {
		t.Errorf("upstream status 503: %+v", got.UpstreamDown)
	}
	if got.BrokenStream.Name == "none" {
		t.Error("a stream that broke off half-way looks complete to the SDK")
	}

	for i, dried := range []sdkDry{got.DryStream, got.DryResponses} {
		// The SDK tells it as an error of the API, once, behind what was delivered.
		if dried.Name != "APIError" || dried.Code != "insufficient_quota" || dried.Type != "insufficient_quota" || dried.Attempts != 1 || dried.Events < tokens/2 || dried.Events > tokens {
			t.Errorf("stream %d that outran its package: %+v", i, dried)
		}
		if q := waitUsed(t, dry[i], dry[i].Demo.LLMTokens.SubscriptionID, tokens); q.Overrun > 256 {
			t.Errorf("stream %d: %+v, more than a slice beyond the package", i, q)
		}
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, readMock(t, n).Total2xx)
	waitUsed(t, used, used.Demo.LLM.SubscriptionID, 1)
}
