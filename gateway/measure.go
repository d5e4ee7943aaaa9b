package gateway

import (
	"slices"

	"github.com/tidwall/gjson"

	"tollgate/internal/directory"
	"tollgate/internal/meter"
	"tollgate/internal/usage"
)

// standard are the rules of products without billing items of their own, which
// most are: they share them.
var (
	standardPlan  = mustPlan()
	standardRules = rulesOf(standardPlan)
)

func mustPlan() *meter.Plan {
	p, err := meter.Compile(nil)
	if err != nil {
		panic(err) // without items nothing can be wrong with them
	}
	return p
}

func rulesOf(p *meter.Plan) *[numFamilies]*meter.Rules {
	var out [numFamilies]*meter.Rules
	for f, name := range familyNames {
		out[f] = p.For(name, nil)
	}
	return &out
}

// compileItems makes the rules of the product's billing items.
func (p *product) compileItems() error {
	if len(p.Items) == 0 {
		p.plan, p.rules = standardPlan, standardRules
		return nil
	}
	var err error
	if p.plan, err = meter.Compile(p.Items); err == nil {
		p.rules = rulesOf(p.plan)
	}
	return err
}

// price finds the rules of the call's route and reports whether it can be
// charged to the subscription: what no item of it measures would be free. Reads
// of answers that were made, and charged, before need no price where the family
// has one.
func (c *call) price(s *subscription) bool {
	c.rules = c.product.rules[c.family]
	if c.product.plan != standardPlan {
		c.rules = c.product.plan.For(familyNames[c.family], lenient(c.route.rest))
	}
	return c.rules.Prices(s.Units)
}

// notPriced is the refusal of a route the subscription cannot be charged for.
func (c *call) notPriced(s *subscription) refusal {
	text := "The package counts "
	for i, u := range s.Units {
		if i > 0 {
			text += " and "
		}
		text += u.String() + "s"
	}
	return refusal{reason: ReasonNotPriced, detail: text + ", which this route has none of: buy a package of calls, or ask the seller for a billing item that prices it."}
}

// backgroundParam is the parameter that has an answer made after the call.
const backgroundParam = "background"

// refuseBackground refuses an answer that is made behind the call where the
// package counts what is in it: it would never be seen here.
func (c *call) refuseBackground(s *subscription) bool {
	return c.pay.background && metersTokens(s.Units)
}

// beginTally makes the call ready to measure what its rules name.
func (c *call) beginTally() {
	c.tally = nil
	if c.rules != nil && (c.rules.Measures(c.sub.Units) || c.makes && c.family == familyImages) {
		c.tally = &meter.Tally{}
		c.tally.Begin(c.rules)
	}
}

// measureAnswer reads a whole JSON answer.
func (c *call) measureAnswer(body []byte) {
	if c.tally != nil && c.makes {
		c.tally.Text(body)
	}
}

// newScan returns a scan of a long answer that has seen head.
func (c *call) newScan(head []byte) *answerScan {
	tally := c.tally
	if !c.makes {
		tally = nil
	}
	return newAnswerScan(string(c.ex.Response.Header.ContentEncoding()), head, tally)
}

// measureEvent reads one event of a streamed answer. Each finished image of a
// streamed generation is an event of its own; partial ones are previews.
func (c *call) measureEvent(data []byte) {
	if c.tally == nil || !c.makes {
		return
	}
	c.tally.Text(data)
	if c.family == familyImages {
		switch gjson.GetBytes(data, "type").Str {
		case "image_generation.completed", "image_edit.completed":
			c.images++
		}
	}
}

// measure writes what was measured into the record. An item of the product
// outranks the usage object; a default only fills what that does not name. What
// the answer named, or the request holds, is as firm as the upstream's own
// usage: the basis says so once every unit of the subscription is known.
func (c *call) measure() {
	if c.tally == nil {
		return
	}
	var request []byte
	if c.bodyRead && c.makes {
		request = c.body
	}
	got := c.tally.Result(request)
	if c.images > 0 && !got.Found[usage.Image] {
		got.Found[usage.Image], got.Units[usage.Image] = true, c.images
	}
	u := &c.rec.Units
	for unit := range got.Units {
		if got.Found[unit] && (got.Said[unit] || u[unit] == 0) {
			u[unit] = got.Units[unit]
		}
	}
	if !got.Said[usage.Token] && (got.Said[usage.InputToken] || got.Said[usage.OutputToken]) {
		u[usage.Token], got.Found[usage.Token] = u[usage.InputToken]+u[usage.OutputToken], true
	}
	for _, unit := range c.sub.Units {
		switch unit {
		case usage.Call:
		case usage.Token, usage.InputToken, usage.OutputToken:
			if !c.usage.found && !got.Found[unit] {
				return // the basis found for the tokens stands
			}
		default:
			if !got.Found[unit] {
				c.rec.Basis = usage.BasisFloor
				return
			}
		}
	}
	c.rec.Basis = usage.BasisUpstream
	if slices.Contains(c.sub.Units, usage.Character) {
		c.rec.Basis = usage.BasisCounted // by the gateway, from what it relayed (EXT-3)
	}
}

// parameterProfile reports whether requests are checked as vLLM would.
func (p *product) parameterProfile() bool { return p.Parameters == directory.ParametersVLLM }
