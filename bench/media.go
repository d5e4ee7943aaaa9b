package bench

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"
)

// pixel is a PNG of one pixel, as the image endpoints return it.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

// sound is what speech sounds like here: the header of an MP3 frame and silence.
var sound = append([]byte{0xff, 0xfb, 0x90, 0x64}, bytes.Repeat([]byte{0}, 413)...)

// heard is how many seconds every recording lasts that the mock transcribes.
const heard = "3.25"

// media answers the endpoints of the OpenAI surface, and Anthropic's, that take
// or make something else than a completion. It reports whether path is one.
func (u *Upstream) media(ctx *fasthttp.RequestCtx, a *answer, path string) bool {
	known := map[string]func(*fasthttp.RequestCtx, *answer){
		"/images/generations": u.images, "/images/edits": u.images, "/images/variations": u.images,
		"/audio/speech":         u.speech,
		"/audio/transcriptions": u.transcript, "/audio/translations": u.transcript,
		"/moderations": u.moderation, "/rerank": u.rerank, "/messages": u.message,
	}
	answer, ok := known[path]
	if !ok || !ctx.IsPost() {
		return false
	}
	if a.steer.status/100 != 2 {
		a.fail(ctx, a.steer.status, "")
		return true
	}
	answer(ctx, a)
	return true
}

// field reads a field of a JSON or multipart body.
func field(ctx *fasthttp.RequestCtx, name string) string {
	if bytes.HasPrefix(ctx.Request.Header.ContentType(), []byte("multipart/")) {
		form, err := ctx.MultipartForm()
		if err != nil || len(form.Value[name]) == 0 {
			return ""
		}
		return form.Value[name][0]
	}
	return gjson.GetBytes(ctx.Request.Body(), name).String()
}

func (u *Upstream) images(ctx *fasthttp.RequestCtx, a *answer) {
	n, err := strconv.Atoi(field(ctx, "n"))
	if err != nil {
		n = 1
	}
	b := strconv.AppendInt([]byte(`{"created":`), time.Now().Unix(), 10)
	b = append(b, `,"data":[`...)
	b = append(b, strings.TrimSuffix(strings.Repeat(`{"b64_json":"`+pixel+`"},`, min(max(n, 1), 10)), ",")...)
	b = append(b, ']')
	b, _ = appendTopUsage(b, kindResponse, &a.steer)
	a.send(ctx, "application/json", append(b, '}'))
}

func (u *Upstream) speech(ctx *fasthttp.RequestCtx, a *answer) {
	a.send(ctx, "audio/mpeg", sound)
}

func (u *Upstream) transcript(ctx *fasthttp.RequestCtx, a *answer) {
	switch field(ctx, "response_format") {
	case "text", "srt", "vtt":
		a.send(ctx, "text/plain", []byte("every call is counted once\n"))
		return
	}
	b := []byte(`{"text":"every call is counted once","language":"english","duration":` + heard)
	if !a.steer.noUsage {
		b = append(b, `,"usage":{"type":"duration","seconds":4}`...)
	}
	a.send(ctx, "application/json", append(b, '}'))
}

func (u *Upstream) moderation(ctx *fasthttp.RequestCtx, a *answer) {
	b := appendID([]byte(`{"id":"modr-`), u.ids.Add(1))
	a.send(ctx, "application/json", append(b, `","model":"omni-moderation-latest","results":[{"flagged":false,"categories":{"violence":false},"category_scores":{"violence":0.01}}]}`...))
}

func (u *Upstream) rerank(ctx *fasthttp.RequestCtx, a *answer) {
	b := appendID([]byte(`{"id":"rerank-`), u.ids.Add(1))
	b = append(b, `","results":[`...)
	for i := range gjson.GetBytes(ctx.Request.Body(), "documents").Array() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, `{"index":`...), int64(i), 10), `,"relevance_score":0.5}`...)
	}
	b = append(b, ']')
	if !a.steer.noUsage {
		b = strconv.AppendInt(append(b, `,"usage":{"total_tokens":`...), a.steer.tokens.prompt, 10)
		b = append(b, '}')
	}
	a.send(ctx, "application/json", append(b, '}'))
}

// message answers Anthropic's endpoint, streamed and not.
func (u *Upstream) message(ctx *fasthttp.RequestCtx, a *answer) {
	t := a.steer.tokens
	usage := func(input, output int64) string {
		if a.steer.noUsage {
			return "null"
		}
		return `{"input_tokens":` + strconv.FormatInt(input, 10) + `,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":` + strconv.FormatInt(output, 10) + `}`
	}
	id := string(appendID(nil, u.ids.Add(1)))
	head := func(content, stop, usage string) string {
		return `{"id":"msg_` + id + `","type":"message","role":"assistant","model":` + string(appendQuoted(nil, field(ctx, "model"))) +
			`,"content":[` + content + `],"stop_reason":` + stop + `,"stop_sequence":null,"usage":` + usage + `}`
	}
	text := string(appendText(nil, t.completion, a.steer.size))
	if field(ctx, "stream") != "true" {
		a.send(ctx, "application/json", []byte(head(`{"type":"text","text":"`+text+`"}`, `"end_turn"`, usage(t.prompt, t.completion))))
		return
	}
	var b strings.Builder
	event := func(kind, rest string) {
		b.WriteString("event: " + kind + "\ndata: {\"type\":\"" + kind + "\"" + rest + "}\n\n")
	}
	event("message_start", `,"message":`+head("", "null", usage(t.prompt, 1)))
	event("content_block_start", `,"index":0,"content_block":{"type":"text","text":""}`)
	event("ping", "")
	for i := range a.steer.chunks {
		event("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"`+words[i%len(words)]+`"}`)
	}
	event("content_block_stop", `,"index":0`)
	delta := `,"delta":{"stop_reason":"end_turn","stop_sequence":null}`
	if !a.steer.noUsage {
		delta += `,"usage":{"output_tokens":` + strconv.FormatInt(t.completion, 10) + `}`
	}
	event("message_delta", delta)
	event("message_stop", "")
	a.send(ctx, "text/event-stream", []byte(b.String()))
}
