package gateway

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	bpe "tollgate/gateway/tokens"
	"tollgate/internal/usage"
)

// textCount counts the tokens of generated text where the upstream may not say
// how many there are, and they may be billed: the product bills estimates, or
// cancels when the client leaves. Reasoning is kept apart, since it is a part of
// the output that records name.
type textCount struct {
	answer, reasoning bpe.Counter
}

// counts reports whether the call's text is counted.
func (c *call) counts() bool {
	return c.makes && (c.product.BillEstimates || c.product.OnDisconnect == onDisconnectCancel) && metersTokens(c.sub.Units)
}

// countAnswer counts the text of a whole answer.
func (c *call) countAnswer(data []byte) {
	if c.makes && slices.ContainsFunc(c.sub.Units, tokenUnit) {
		c.countText(data)
	}
}

// countEvent counts the text of one event. Where nobody is billed by it, running
// keeps a sample: to count each event would cost more than to relay it.
func (c *call) countEvent(data []byte) {
	if c.counts() {
		c.countText(data)
	}
}

func (c *call) countText(data []byte) {
	if c.usage.found {
		return
	}
	if c.text == nil {
		c.text = &textCount{}
		e, _ := bpe.For(c.pay.model)
		c.text.answer.Begin(e)
		c.text.reasoning.Begin(e)
	}
	generated(data, func(text string, reasoning bool) {
		if reasoning {
			c.text.reasoning.Add(text)
		} else {
			c.text.answer.Add(text)
		}
	})
}

// sampleSize bounds the text, of the prompt and of the answer, that is counted
// of a call nobody is billed for; the rest is taken to be like it.
const sampleSize = 16 << 10

// tellTokens fills in what was counted where nobody is billed for it: the
// record tells it, and the call is not charged (LLM-37). Of a stream the sample
// is counted that was kept on its way.
func (c *call) tellTokens() {
	run := &c.stream.run
	if c.text == nil && run.bytes == 0 && c.family != familyEmbeddings && c.family != familyRerank {
		return // what was answered was not read: too long, or in a coding that is not known
	}
	if c.text == nil && run.bytes > 0 {
		c.text = &textCount{}
		e, _ := bpe.For(c.pay.model)
		c.text.answer.Begin(e)
		c.text.reasoning.Begin(e)
		c.text.answer.Add(gjson.Parse(`"` + string(run.sample) + `"`).Str)
		c.text.answer.Skip(run.bytes - int64(len(run.sample)))
	}
	c.rec.Basis = c.countTokens()
	c.rec.Flags |= usage.Unbilled
}

// countTokens fills in what was counted of the prompt and of what was relayed.
// It returns counted where the model's own encoding took all of the output, and
// estimated otherwise: another encoding, or more text than is looked at.
func (c *call) countTokens() usage.Basis {
	enc, own := bpe.For(c.pay.model)
	var prompt bpe.Counter
	prompt.Begin(enc)
	messages := int64(0)
	if c.bodyRead && len(c.body) > 0 {
		left := len(c.body)
		if !c.counts() {
			left = sampleSize
		}
		messages = promptTexts(c.body, func(text string) {
			n := min(len(text), left)
			left -= n
			prompt.Add(text[:n])
			prompt.Skip(int64(len(text) - n))
		})
	}
	in, wholeIn := prompt.Total()
	if messages > 0 {
		in += 3*messages + 3 // the marks around each message, and those the answer begins with
	}
	var out, reasoning int64
	wholeOut := true
	if c.text != nil {
		var a, b bool
		out, a = c.text.answer.Total()
		reasoning, b = c.text.reasoning.Total()
		wholeOut = a && b
	}
	u := &c.rec.Units
	u[usage.InputToken], u[usage.OutputToken] = in, out+reasoning
	u[usage.Token] = in + out + reasoning
	c.rec.Reasoning = reasoning
	if own && wholeIn && wholeOut {
		return usage.BasisCounted
	}
	return usage.BasisEstimated
}

// generated calls yield for each piece of generated text in an answer or an
// event of the OpenAI surface or Anthropic's.
func generated(data []byte, yield func(text string, reasoning bool)) {
	root := gjson.ParseBytes(data)
	say := func(v gjson.Result, reasoning bool) {
		if v.Type == gjson.String && v.Str != "" {
			yield(v.Str, reasoning)
		}
	}
	kind := root.Get("type").Str
	switch {
	case strings.HasSuffix(kind, "audio.delta"):
		return // sound, not text
	case strings.HasSuffix(kind, ".delta") && strings.HasPrefix(kind, "response."):
		say(root.Get("delta"), strings.Contains(kind, "reasoning"))
		return
	case kind == "transcript.text.delta":
		say(root.Get("delta"), false)
		return
	case kind == "content_block_delta":
		d := root.Get("delta")
		say(d.Get("text"), false)
		say(d.Get("partial_json"), false)
		say(d.Get("thinking"), true)
		return
	case strings.HasPrefix(kind, "response.") || strings.HasPrefix(kind, "transcript."):
		return // it repeats what the deltas said
	}
	root.Get("choices").ForEach(func(_, ch gjson.Result) bool {
		say(ch.Get("text"), false)
		for _, at := range []string{"delta", "message"} {
			m := ch.Get(at)
			if !m.IsObject() {
				continue
			}
			m.ForEach(func(k, v gjson.Result) bool {
				switch k.Str {
				case "content", "refusal":
					say(v, false)
				case "reasoning_content", "reasoning":
					say(v, true)
				case "tool_calls":
					v.ForEach(func(_, call gjson.Result) bool {
						say(call.Get("function.name"), false)
						say(call.Get("function.arguments"), false)
						return true
					})
				}
				return true
			})
		}
		return true
	})
	root.Get("output").ForEach(func(_, item gjson.Result) bool { // the responses API
		say(item.Get("name"), false)
		say(item.Get("arguments"), false)
		reasoning := item.Get("type").Str == "reasoning"
		for _, at := range []string{"content", "summary"} {
			item.Get(at).ForEach(func(_, part gjson.Result) bool {
				say(part.Get("text"), reasoning)
				return true
			})
		}
		return true
	})
	if root.Get("type").Str == "message" { // Anthropic's
		root.Get("content").ForEach(func(_, part gjson.Result) bool {
			say(part.Get("text"), false)
			say(part.Get("thinking"), true)
			if in := part.Get("input"); in.IsObject() {
				yield(in.Raw, false)
			}
			return true
		})
	}
}

// promptTexts calls yield for each piece of text in a request and returns how
// many messages there are. Files and images are not text: what they cost only
// the upstream knows.
func promptTexts(body []byte, yield func(string)) (messages int64) {
	say := func(v gjson.Result) {
		if v.Type == gjson.String {
			yield(v.Str)
		}
	}
	content := func(v gjson.Result) {
		say(v)
		if v.IsArray() {
			v.ForEach(func(_, part gjson.Result) bool {
				say(part)
				say(part.Get("text"))
				return true
			})
		}
	}
	gjson.ParseBytes(body).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "messages", "input":
			if !v.IsArray() {
				content(v)
				return true
			}
			v.ForEach(func(_, m gjson.Result) bool {
				if !m.IsObject() {
					say(m) // a list of texts
					return true
				}
				messages++
				say(m.Get("role"))
				say(m.Get("name"))
				content(m.Get("content"))
				say(m.Get("output"))
				m.Get("tool_calls").ForEach(func(_, call gjson.Result) bool {
					say(call.Get("function.name"))
					say(call.Get("function.arguments"))
					return true
				})
				return true
			})
		case "prompt", "instructions", "system", "query":
			content(v)
		case "documents":
			content(v)
		case "tools":
			yield(v.Raw)
		}
		return true
	})
	return messages
}
