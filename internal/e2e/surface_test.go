package e2e

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"tollgate/internal/testkit/node"
	"tollgate/internal/testkit/tollgate"
)

// TestSurfaceWithSDKs proves that the whole surface works with the unmodified
// SDKs, byte for byte where they show it, and that each call is charged once:
// by the call or by what its upstream reported.
func TestSurfaceWithSDKs(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	var got map[string]any
	node.Run(t, "surface.mjs", map[string]any{
		"calls": productOf(n.Demo.LLM), "tokens": productOf(n.Demo.LLMTokens),
		"gateway_url": n.Demo.GatewayURL, "mock_url": n.Demo.MockUpstreamURL,
		"https": map[string]string{
			"base_url":    strings.Replace(n.Demo.LLMTokens.BaseURL, n.Demo.GatewayURL, n.Demo.GatewayHTTPSURL, 1),
			"certificate": filepath.Join(n.Dir(), "tls-self-signed.crt"),
		},
	}, &got)
	const (
		call   = " call=1"
		tokens = " token=46;basis=upstream"
		free   = " token=0;basis=upstream"
	)
	want := map[string]any{
		"answer_bytes": "true token=123;basis=upstream", "request_bytes": true, "tools": "东莞,21.5,1 token=123;basis=upstream",
		"response": "true" + tokens, "response_stream": "10 46",
		// What was made, and charged, before is read for nothing.
		"response_get": "46" + free, "response_cancel": "cancelled" + free, "response_delete": 200.0, "response_gone": "NotFoundError",
		"embeddings": "2 token=12;basis=upstream", "images": "2" + tokens, "image_edit": "1" + tokens,
		"moderations": "false" + call, "speech": "fffb" + call, "transcription": "3.25" + call, "translation": "every call is counted once" + call,
		"file": "a.jsonl,true" + call, "file_get": "true" + call, "file_content": "0" + call,
		"upload": "pending" + call, "upload_part": "true" + call, "upload_complete": "6" + call,
		"batch": "in_progress" + call, "batch_cancel": "cancelled" + call, "file_delete": "true" + call,
		"realtime": "session.created response.created response.output_text.delta response.done response.created response.output_text.delta response.done",
		"message":  "true,12,34" + tokens, "message_stream": "true 12 34", "count_tokens": "12" + free,
		"message_bad_key": "AuthenticationError authentication_error", "not_priced": 403.0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 13)
	// Two exact answers, response and its stream, embeddings, two of images, two
	// answers of the session, message and its stream.
	waitUsed(t, n, n.Demo.LLMTokens.SubscriptionID, 2*123+12+46*8)
}

// TestSurfaceWithGoSDK proves that multipart, binary and stored objects work
// with the official SDK for Go.
func TestSurfaceWithGoSDK(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	client := openai.NewClient(option.WithBaseURL(n.Demo.LLM.BaseURL), option.WithAPIKey(n.Demo.LLM.APIKey), option.WithMaxRetries(0))
	model := n.Demo.LLM.Model
	file := func() *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{7}, 200_000)) }

	images, err := client.Images.Generate(t.Context(), openai.ImageGenerateParams{Model: model, Prompt: "a cat", N: openai.Int(3)})
	if err != nil || len(images.Data) != 3 {
		t.Errorf("images: %+v, %v", images, err)
	}
	sound, err := client.Audio.Speech.New(t.Context(), openai.AudioSpeechNewParams{Model: model, Input: "Hello", Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")}})
	if err != nil {
		t.Fatal(err)
	}
	heard, err := io.ReadAll(sound.Body)
	_ = sound.Body.Close()
	if err != nil || !bytes.HasPrefix(heard, []byte{0xff, 0xfb}) || sound.Header.Get("X-Tollgate-Charged") != "call=1" {
		t.Errorf("speech: %x, %v, %v", heard, sound.Header, err)
	}
	text, err := client.Audio.Transcriptions.New(t.Context(), openai.AudioTranscriptionNewParams{Model: model, File: file()})
	if err != nil || text.Text != "every call is counted once" {
		t.Errorf("transcription: %+v, %v", text, err)
	}
	kept, err := client.Files.New(t.Context(), openai.FileNewParams{File: file(), Purpose: openai.FilePurposeBatch})
	if err != nil || kept.Bytes != 200_000 {
		t.Fatalf("file: %+v, %v", kept, err)
	}
	gone, err := client.Files.Delete(t.Context(), kept.ID)
	if err != nil || !gone.Deleted {
		t.Errorf("delete: %+v, %v", gone, err)
	}
	moderation, err := client.Moderations.New(t.Context(), openai.ModerationNewParams{Input: openai.ModerationNewParamsInputUnion{OfString: openai.String("x")}})
	if err != nil || len(moderation.Results) != 1 {
		t.Errorf("moderation: %+v, %v", moderation, err)
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 6)
}
