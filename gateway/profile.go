package gateway

import (
	"errors"
	"fmt"

	"github.com/tidwall/gjson"
)

// checkProfile checks the parameters of a chat or completion request by the
// profile of the product (LLM-12..26), which is off unless the product is
// vLLM-like. Parameters it does not name go on unchanged (LLM-3).
func (c *call) checkProfile(model string) (param string, err error) {
	p := c.product
	if p == nil {
		for _, o := range c.who.products() {
			if _, ok := o.models[model]; ok {
				p = o
				break
			}
		}
	}
	if p == nil || !p.parameterProfile() {
		return "", nil
	}
	return checkParameters(c.body)
}

// parameters are those that belong together; absent ones are nil.
type parameters struct {
	topK, topP, temperature, n, lengthPenalty, bestOf *float64
	beam                                              bool
}

// checkParameters returns the parameter that is wrong and why.
func checkParameters(body []byte) (param string, err error) {
	var p parameters
	gjson.Parse(view(body)).ForEach(func(key, v gjson.Result) bool {
		if v.Type == gjson.Null {
			return true // null is absent
		}
		switch key.Str {
		case "max_tokens", "max_completion_tokens": // LLM-14; read by parsePayload
		case "top_k": // LLM-15
			p.topK, err = whole(v)
			if err == nil && *p.topK != -1 && *p.topK < 1 {
				err = errors.New("must be -1 or at least 1")
			}
		case "top_p": // LLM-16
			p.topP, err = between(v, 0, 1)
		case "temperature": // LLM-17
			p.temperature, err = between(v, 0, 2)
		case "stop": // LLM-18
			err = checkStop(v)
		case "n": // LLM-19, LLM-20
			p.n, err = whole(v)
			if err == nil && (*p.n < 1 || *p.n > 10) {
				err = errors.New("must be from 1 to 10")
			}
		case "use_beam_search": // LLM-21
			p.beam = v.Type == gjson.True
			err = boolean(v)
		case "presence_penalty", "frequency_penalty": // LLM-22, LLM-23
			_, err = between(v, -2, 2)
		case "length_penalty": // LLM-24
			p.lengthPenalty, err = between(v, -1e9, 1e9)
		case "best_of": // LLM-25
			p.bestOf, err = whole(v)
			if err == nil && *p.bestOf < 1 {
				err = errors.New("must be at least 1")
			}
		case "ignore_eos": // LLM-26
			err = boolean(v)
		}
		if err != nil {
			param = key.String()
		}
		return err == nil
	})
	if err != nil {
		return param, err
	}
	return p.together()
}

// together checks what depends on more than one parameter.
func (p *parameters) together() (param string, err error) {
	is := func(v *float64, want float64) bool { return v != nil && *v == want }
	absentOr := func(v *float64, want float64) bool { return v == nil || *v == want }
	n := 1.0
	if p.n != nil {
		n = *p.n
	}
	switch {
	case p.bestOf != nil && *p.bestOf < n:
		return "best_of", errors.New("must be at least n")
	case p.beam && n <= 1:
		return "use_beam_search", errors.New("requires n greater than 1")
	case p.beam && !absentOr(p.topP, 1):
		return "use_beam_search", errors.New("requires top_p 1.0")
	case p.beam && !absentOr(p.topK, -1):
		return "use_beam_search", errors.New("requires top_k -1")
	case p.beam && !is(p.temperature, 0):
		return "use_beam_search", errors.New("requires temperature 0.0")
	case p.lengthPenalty != nil && *p.lengthPenalty != 1 && !p.beam:
		return "length_penalty", errors.New("requires use_beam_search true")
	case p.lengthPenalty != nil && *p.lengthPenalty != 1 && !absentOr(p.topK, -1):
		return "length_penalty", errors.New("requires top_k -1")
	case p.lengthPenalty != nil && *p.lengthPenalty != 1 && (p.bestOf == nil || *p.bestOf <= 1):
		return "length_penalty", errors.New("requires best_of greater than 1")
	case p.beam: // LLM-28: the rows below hold for sampling only
	case n > 1 && is(p.temperature, 0):
		return "n", errors.New("must be 1 with temperature 0: greedy sampling has one answer")
	case n > 1 && is(p.topK, 1):
		return "n", errors.New("must be 1 with top_k 1: greedy sampling has one answer")
	}
	return "", nil
}

func boolean(v gjson.Result) error {
	if v.Type != gjson.True && v.Type != gjson.False {
		return errStream
	}
	return nil
}

func whole(v gjson.Result) (*float64, error) {
	if v.Type != gjson.Number || v.Num != float64(int64(v.Num)) || v.Num > 1e9 || v.Num < -1e9 {
		return nil, errors.New("must be a whole number")
	}
	return &v.Num, nil
}

func between(v gjson.Result, low, high float64) (*float64, error) {
	if v.Type != gjson.Number || !(v.Num >= low && v.Num <= high) {
		return nil, fmt.Errorf("must be a number from %g to %g", low, high)
	}
	return &v.Num, nil
}

func checkStop(v gjson.Result) error {
	fault := errors.New("must be a string or a list of strings")
	if v.Type == gjson.String {
		return nil
	}
	if !v.IsArray() {
		return fault
	}
	ok := true
	v.ForEach(func(_, e gjson.Result) bool {
		ok = e.Type == gjson.String
		return ok
	})
	if !ok {
		return fault
	}
	return nil
}
