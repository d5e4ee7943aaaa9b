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

// media answers the endpoints of the OpenAI surface that take or make something
// else than a completion. It reports whether path is one.
func (u *Upstream) media(ctx *fasthttp.RequestCtx, a *answer, path string) bool {
	known := map[string]func(*fasthttp.RequestCtx, *answer){
		"/images/generations": u.images, "/images/edits": u.images, "/images/variations": u.images,
		"/audio/speech":         u.speech,
		"/audio/transcriptions": u.transcript, "/audio/translations": u.transcript,
		"/moderations": u.moderation, "/rerank": u.rerank,
		"/messages/count_tokens": u.countTokens, "/responses/input_tokens": u.countTokens,
	}
	answer, ok := known[path]
	if !ok || !ctx.IsPost() {
		return false
	}
	if a.steer.status/100 != 2 {
		a.fail(ctx, a.steer.status, "")
		return true
	}
	if a.steer.body != nil {
		a.send(ctx, "application/json", a.steer.body)
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
