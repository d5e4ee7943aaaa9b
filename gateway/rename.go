package gateway

import (
	"bytes"

	"github.com/tidwall/gjson"
)

// modelPaths are where answers name their model: OpenAI's answers and chunks,
// events of the responses API, Anthropic's message_start.
var modelPaths = [...]string{"model", "response.model", "message.model"}

// renameModel returns json with alias for the model's name, every other byte as
// it was; json itself where it names none.
func renameModel(json []byte, alias string) []byte {
	for _, path := range modelPaths {
		v := gjson.GetBytes(json, path)
		if v.Type != gjson.String || v.Str == alias || v.Index <= 0 {
			continue
		}
		out := make([]byte, 0, len(json)+len(alias)+2)
		out = append(out, json[:v.Index]...)
		out = gjson.AppendJSONString(out, alias)
		json = append(out, json[v.Index+len(v.Raw):]...)
	}
	return json
}

// renameEvent does it in the data lines of one raw event. Data that goes over
// several lines stands as it came: no server writes JSON so.
func renameEvent(event []byte, alias string) []byte {
	for at := 0; at < len(event); {
		end := len(event)
		if i := bytes.IndexAny(event[at:], "\r\n"); i >= 0 {
			end = at + i
		}
		line := event[at:end]
		if payload, ok := bytes.CutPrefix(line, []byte("data:")); ok && bytes.Contains(payload, []byte(`model"`)) && gjson.ValidBytes(payload) {
			if renamed := renameModel(payload, alias); len(renamed) != len(payload) || !bytes.Equal(renamed, payload) {
				start := at + len("data:")
				out := append(append(bytes.Clone(event[:start]), renamed...), event[end:]...)
				end = start + len(renamed)
				event = out
			}
		}
		at = end + 1
	}
	return event
}

// renameAnswer writes the model's name as the caller gave it into a whole
// answer, where the product wants that. A packed answer stands as it came.
func (c *call) renameAnswer() {
	if !c.product.Traffic.MapModelBack || c.pay.model == "" {
		return
	}
	if coding := c.ex.Response.Header.ContentEncoding(); len(coding) > 0 && !equalFold(coding, "identity") {
		return
	}
	resp := &c.ctx.Response
	if body := resp.Body(); gjson.ValidBytes(body) {
		if renamed := renameModel(body, c.pay.model); !bytes.Equal(renamed, body) {
			resp.SetBodyRaw(renamed)
			c.bytesOut = int64(len(renamed))
		}
	}
}
