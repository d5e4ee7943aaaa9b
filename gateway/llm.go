package gateway

import (
	"errors"
	"net/url"

	"github.com/valyala/fasthttp"
)

// serveLLM serves a call to an LLM product: by API key (AUTH-14).
func (c *call) serveLLM() refusal {
	ref := c.findLLM()
	if ref.reason != ReasonNone {
		return ref
	}
	var form form
	c.family, form = familyOf(c.route.rest)
	post := c.ctx.IsPost()
	c.makes = post && form.makes()
	contentType := c.ctx.Request.Header.ContentType()
	defer c.closeSpool()
	switch {
	case c.family == familyModels && (c.ctx.IsGet() || c.ctx.IsHead()):
		return c.listModels()
	case c.family == familyModels:
		// The upstream's models are not the caller's to change.
		return refusal{reason: ReasonMethod}
	case c.family == familyRealtime:
		return c.serveRealtime()
	case post && (form == formModel || form == formCount):
		ref = c.takePayload()
	case post && form == formParts && isMultipart(contentType):
		ref = c.takeParts()
	case c.makes && isJSON(contentType):
		ref = c.takeOtherPayload()
	default:
		if ref = c.productWithoutModel(); ref.reason == ReasonNone {
			ref = c.takeBody()
		}
	}
	if ref.reason != ReasonNone {
		return ref
	}
	if ref = c.sharedObjects(); ref.reason != ReasonNone {
		return ref
	}
	ref = c.admitAndForward()
	// Several products may go by one name at /v1: one that is used up does not
	// stand before another that is not.
	for len(c.others) > 0 && (ref.reason == ReasonExhausted || ref.reason == ReasonFrozen) {
		c.product, c.others = c.others[0], c.others[1:]
		if c.spool != nil {
			c.editParts(nil)
		} else {
			c.editPayload()
		}
		ref = c.admitAndForward()
	}
	return ref
}

func isJSON(contentType []byte) bool {
	const t = "application/json"
	return len(contentType) >= len(t) && equalFold(contentType[:len(t)], t)
}

// takeOtherPayload takes the JSON body of a route the gateway does not know. A
// model in it decides like in the routes it knows; without one, or where the
// body is not what the gateway can read, the product must follow from the rest.
func (c *call) takeOtherPayload() refusal {
	if ref := c.readPayload(); ref.reason != ReasonNone {
		if ref.reason != ReasonBadRequest || c.product == nil {
			return ref
		}
		return refusal{} // the upstream judges it
	}
	if c.pay.model == "" {
		return c.productWithoutModel()
	}
	if ref := c.resolveModel(); ref.reason != ReasonNone {
		return ref
	}
	c.editPayload()
	return refusal{}
}

// findLLM authenticates the caller and finds the product, where the path names
// it. The key comes first: without one nobody learns which products there are
// (KEY-11).
func (c *call) findLLM() refusal {
	who, ref := c.authenticateKey()
	if ref.reason != ReasonNone {
		return ref
	}
	c.who = who
	if len(c.route.infer) == 0 {
		return refusal{}
	}
	p := c.table.infer[string(c.route.infer)]
	if p == nil {
		return refusal{reason: ReasonNoRoute, detail: "There is no service with this id. Check the base URL: /v1/infers/{id}/v1."}
	}
	c.product = p
	if !who.mayCall(p) {
		return refusal{reason: ReasonNotSubscribed}
	}
	if c.route.rest == nil {
		return refusal{reason: ReasonNoRoute, detail: "The base URL of this service ends in /v1: /v1/infers/{id}/v1."}
	}
	return refusal{}
}

// productWithoutModel finds the product of a request that names none: the key
// must leave no choice.
func (c *call) productWithoutModel() refusal {
	if c.product != nil {
		return refusal{}
	}
	candidates := c.who.products()
	if len(candidates) != 1 {
		return refusal{reason: ReasonModelMissing, detail: "This path names no model, and the key may call several services or none: address one at /v1/infers/{id}/v1."}
	}
	c.product = candidates[0]
	return refusal{}
}

// takePayload reads, checks and edits the JSON body of an LLM request.
func (c *call) takePayload() refusal {
	if ref := c.readPayload(); ref.reason != ReasonNone {
		return ref
	}
	if c.pay.model == "" {
		return refusal{reason: ReasonModelMissing, param: "model"}
	}
	if ref := c.resolveModel(); ref.reason != ReasonNone {
		return ref
	}
	c.editPayload()
	return refusal{}
}

// editPayload makes the body for the product out of the client's.
func (c *call) editPayload() { c.editPayloadFor(nil) }

// editPayloadFor makes the body for an upstream of the product, nil for any.
func (c *call) editPayloadFor(t *target) {
	if c.plain == nil {
		c.plain = c.body
	}
	ask := c.pay.stream && c.family.takesStreamOptions()
	out := c.pay.rewrite(c.editBuf[:0], c.plain, c.upstreamModel(t), ask)
	if len(out) != len(c.plain) || len(out) > 0 && &out[0] != &c.plain[0] {
		c.editBuf = out
	}
	c.body = out
}

// upstreamModel is the name of the call's model at an upstream of the product,
// nil for any.
func (c *call) upstreamModel(t *target) string {
	if t != nil {
		if name, ok := t.models[c.pay.model]; ok {
			return name
		}
	}
	return c.product.models[c.pay.model]
}

// readPayload reads and parses the JSON body of an LLM request, unpacking it
// when the client compressed it: what cannot be read cannot be metered.
func (c *call) readPayload() refusal {
	if _, ref := c.readBody(c.g.cfg.MaxBody); ref.reason != ReasonNone {
		return ref
	}
	if coding := c.ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding); len(coding) > 0 && !equalFold(coding, "identity") {
		r, err := newDecoder(string(coding), &byteReader{b: c.body})
		if err != nil {
			return refusal{reason: ReasonBadRequest, detail: err.Error() + ": send the body plain or as gzip, deflate, br or zstd"}
		}
		plain, err := readAll(nil, r, c.g.cfg.MaxBody)
		switch {
		case errors.Is(err, errTooLarge):
			return refusal{reason: ReasonBodyTooLarge}
		case err != nil:
			return refusal{reason: ReasonBadRequest, detail: "the request body does not unpack as its Content-Encoding says"}
		}
		c.body, c.decoded = plain, true
	}
	pay, param, err := parsePayloadOf(c.body, c.family, c.model)
	if err == nil && c.family.takesStreamOptions() {
		param, err = c.checkProfile(pay.model)
	}
	if err != nil {
		detail := err.Error()
		if param != "" {
			detail = param + " " + detail
		}
		return refusal{reason: ReasonBadRequest, detail: detail, param: param} // LLM-27
	}
	if c.pay = pay; len(pay.model) <= maxKnownModel {
		c.model = pay.model
	}
	return refusal{}
}

// maxKnownModel bounds the model's name that is kept for the next call.
const maxKnownModel = 64

// unknownModel is the refusal of a model the key cannot call.
func unknownModel(name string) refusal {
	const most = 100 // an absurd name is not repeated whole
	if len(name) > most {
		name = name[:most] + "…"
	}
	return refusal{
		reason: ReasonModelUnknown,
		detail: "The model `" + name + "` does not exist or you do not have access to it.",
	}
}

// resolveModel checks the model against the addressed product, or finds the
// products the key may call under that name, the earliest subscribed first.
func (c *call) resolveModel() refusal {
	name := c.pay.model
	if c.product != nil {
		if _, ok := c.product.models[name]; ok {
			return refusal{}
		}
	} else {
		for _, p := range c.who.account.llm {
			if _, ok := p.models[name]; !ok || !c.who.mayCall(p) {
				continue
			}
			if c.product == nil {
				c.product = p
			} else {
				c.others = append(c.others, p)
			}
		}
		if c.product != nil {
			return refusal{}
		}
	}
	c.pay.model = "" // it is the caller's text, not a model: no record keeps it
	return unknownModel(name)
}

// mayCall reports whether the API key's account has a subscription for p and
// the key's allow-list admits it (KEY-8).
func (w *principal) mayCall(p *product) bool {
	return len(w.account.subs[p.ID]) > 0 && (w.key.allow == nil || w.key.allow[p.ID])
}

// products lists the LLM products the key may call.
func (w *principal) products() []*product {
	var out []*product
	for _, p := range w.account.llm {
		if w.mayCall(p) {
			out = append(out, p)
		}
	}
	return out
}

// listModels answers GET …/models and …/models/{model} with what the key may
// use (LLM-4). It is the gateway's own answer and costs nothing.
func (c *call) listModels() refusal {
	products := []*product{c.product}
	if c.product == nil {
		products = c.who.products()
	}
	resp := &c.ctx.Response
	if name := c.route.rest[len("/models"):]; len(name) > 1 {
		model, err := url.PathUnescape(string(name[1:]))
		if err != nil {
			return unknownModel(string(name[1:]))
		}
		for _, p := range products {
			if _, ok := p.models[model]; ok {
				resp.SetBody(appendModel(nil, model, p.Seller))
				return c.answerLocally()
			}
		}
		return unknownModel(model)
	}
	body := []byte(`{"object":"list","data":[`)
	seen := make(map[string]bool)
	for _, p := range products {
		for _, m := range p.Models {
			if seen[m.Name] {
				continue
			}
			if len(seen) > 0 {
				body = append(body, ',')
			}
			seen[m.Name] = true
			body = appendModel(body, m.Name, p.Seller)
		}
	}
	resp.SetBody(append(body, "]}"...))
	return c.answerLocally()
}

func (c *call) answerLocally() refusal {
	resp := &c.ctx.Response
	resp.Header.SetContentType("application/json")
	resp.Header.SetBytesV("X-Request-Id", c.idText[:])
	c.discardBody()
	c.note(resp.StatusCode())
	return refusal{}
}
