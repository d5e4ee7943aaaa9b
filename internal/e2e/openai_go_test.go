package e2e

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	sashabaranov "github.com/sashabaranov/go-openai"

	"tollgate/internal/testkit/tollgate"
)

// TestOpenAISDKForGo proves that the official SDK for Go works unmodified and
// raises used-up quota once.
func TestOpenAISDKForGo(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 6})
	var attempts atomic.Int64
	count := option.WithMiddleware(func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		attempts.Add(1)
		return next(req)
	})
	client := openai.NewClient(option.WithBaseURL(n.Demo.LLM.BaseURL), option.WithAPIKey(n.Demo.LLM.APIKey), count)
	params := openai.ChatCompletionNewParams{
		Model:    n.Demo.LLM.Model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Say something.")},
	}
	tokens := option.WithHeader("X-Mock-Tokens", "12,34")

	answer, err := client.Chat.Completions.New(t.Context(), params, tokens)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Choices[0].Message.Content == "" || answer.Usage.TotalTokens != 46 {
		t.Errorf("chat: %+v", answer)
	}

	for _, tc := range []struct {
		name  string
		usage bool
		want  int64
	}{{name: "plain"}, {name: "include_usage", usage: true, want: 46}} {
		params := params
		if tc.usage {
			params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
		}
		stream := client.Chat.Completions.NewStreaming(t.Context(), params, tokens)
		var whole openai.ChatCompletionAccumulator
		for stream.Next() {
			whole.AddChunk(stream.Current())
		}
		if err := stream.Err(); err != nil {
			t.Fatalf("stream %s: %v", tc.name, err)
		}
		if whole.Choices[0].Message.Content == "" || whole.Usage.TotalTokens != tc.want {
			t.Errorf("stream %s: %q, usage %d, want %d", tc.name, whole.Choices[0].Message.Content, whole.Usage.TotalTokens, tc.want)
		}
	}

	embeddings, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: n.Demo.LLM.Model, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two"}},
	})
	if err != nil || len(embeddings.Data) != 2 {
		t.Errorf("embeddings: %+v, %v", embeddings, err)
	}

	response, err := client.Responses.New(t.Context(), responses.ResponseNewParams{
		Model: n.Demo.LLM.Model, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Say something.")},
	}, tokens)
	if err != nil || response.OutputText() == "" || response.Usage.TotalTokens != 46 {
		t.Errorf("responses: %+v, %v", response, err)
	}

	// The sixth and last unit, then none.
	if _, err := client.Chat.Completions.New(t.Context(), params); err != nil {
		t.Fatalf("the last unit: %v", err)
	}
	attempts.Store(0)
	_, err = client.Chat.Completions.New(t.Context(), params)
	var failed *openai.Error
	if !errors.As(err, &failed) {
		t.Fatalf("a used-up package: %v, want an *openai.Error", err)
	}
	if failed.StatusCode != http.StatusTooManyRequests || failed.Code != "insufficient_quota" || attempts.Load() != 1 {
		t.Errorf("a used-up package: status %d, code %q after %d attempts, want 429 insufficient_quota after 1", failed.StatusCode, failed.Code, attempts.Load())
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 6)
}

// TestGoSDKRaisesADryStream: a stream that outruns its package is told as an
// error behind what was delivered, not as an answer that came to its end and
// not as one that cannot be read.
func TestGoSDKRaisesADryStream(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 200})
	client := openai.NewClient(option.WithBaseURL(n.Demo.LLMTokens.BaseURL), option.WithAPIKey(n.Demo.LLMTokens.APIKey))
	stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
		Model:    n.Demo.LLMTokens.Model,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Say something.")},
	}, option.WithHeader("X-Mock-Chunks", "2000"), option.WithHeader("X-Mock-Chunk-Delay", "1ms"))
	chunks := 0
	for stream.Next() {
		chunks++
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "insufficient_quota") || chunks < 100 || chunks > 200 {
		t.Errorf("after %d chunks: %v", chunks, err)
	}
	waitUsed(t, n, n.Demo.LLMTokens.SubscriptionID, 200)
}

// TestKeyAndModelDecide proves that /v1/… finds the product by key and model,
// as /v1/infers/{id}/v1/… does by its path (LLM-1).
func TestKeyAndModelDecide(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 10})
	client := openai.NewClient(option.WithBaseURL(n.Demo.GatewayURL+"/v1"), option.WithAPIKey(n.Demo.LLM.APIKey), option.WithMaxRetries(0))
	_, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: n.Demo.LLM.Model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Say something.")},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: "no-such-model", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Say something.")},
	})
	var failed *openai.Error
	if !errors.As(err, &failed) || failed.StatusCode != http.StatusNotFound || failed.Code != "model_not_found" {
		t.Errorf("an unknown model: %v, want 404 model_not_found", err)
	}
}

// TestSashabaranovGoOpenAI proves that the other common client for Go works.
func TestSashabaranovGoOpenAI(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 3})
	config := sashabaranov.DefaultConfig(n.Demo.LLM.APIKey)
	config.BaseURL = n.Demo.LLM.BaseURL
	client := sashabaranov.NewClientWithConfig(config)
	ask := sashabaranov.ChatCompletionRequest{
		Model:    n.Demo.LLM.Model,
		Messages: []sashabaranov.ChatCompletionMessage{{Role: sashabaranov.ChatMessageRoleUser, Content: "Say something."}},
	}
	answer, err := client.CreateChatCompletion(t.Context(), ask)
	if err != nil || answer.Choices[0].Message.Content == "" || answer.Usage.TotalTokens == 0 {
		t.Fatalf("chat: %+v, %v", answer, err)
	}
	for _, usage := range []bool{false, true} {
		streamed := ask
		if usage {
			streamed.StreamOptions = &sashabaranov.StreamOptions{IncludeUsage: true}
		}
		text, total := readStream(t, client, streamed)
		if text == "" || (total > 0) != usage {
			t.Errorf("stream with include_usage %v: text %q, usage %d", usage, text, total)
		}
	}
	_, err = client.CreateChatCompletion(t.Context(), ask)
	var failed *sashabaranov.APIError
	if !errors.As(err, &failed) || failed.HTTPStatusCode != http.StatusTooManyRequests || failed.Type != "insufficient_quota" {
		t.Errorf("a used-up package: %v, want 429 insufficient_quota", err)
	}
	config = sashabaranov.DefaultConfig("sk-" + strings.Repeat("x", 48))
	config.BaseURL = n.Demo.LLM.BaseURL
	_, err = sashabaranov.NewClientWithConfig(config).CreateChatCompletion(t.Context(), ask)
	if !errors.As(err, &failed) || failed.HTTPStatusCode != http.StatusUnauthorized || failed.Code != "invalid_api_key" {
		t.Errorf("a bad key: %v, want 401 invalid_api_key", err)
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 3)
}

// readStream reads a streamed chat completion to its end.
func readStream(t *testing.T, client *sashabaranov.Client, ask sashabaranov.ChatCompletionRequest) (text string, total int) {
	t.Helper()
	stream, err := client.CreateChatCompletionStream(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text, total
		}
		if err != nil {
			t.Fatal(err)
		}
		if chunk.Usage != nil {
			total = chunk.Usage.TotalTokens
		}
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
		}
	}
}
