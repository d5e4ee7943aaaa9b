package gateway

import (
	"bytes"

	"tollgate/internal/directory"
)

// What calls make and leave upstream (files, batches, stored responses and the
// like) lies in the upstream's account, which the product's buyers share. An
// object's id is told to who made it and is not guessable, as a session's is;
// so objects are served by id. A collection is not: it would tell every buyer's
// ids to all of them. Neither is what manages the upstream's account.
//
// A product whose upstream account belongs to a single buyer says so with
// directory.ObjectsShared, and everything passes.

// collections are the paths whose GET lists what an account keeps.
var collections = map[string]bool{
	"/files": true, "/uploads": true, "/batches": true, "/messages/batches": true, "/vector_stores": true,
	"/responses": true, "/conversations": true, "/chat/completions": true, "/containers": true, "/videos": true,
	"/fine_tuning/jobs": true, "/evals": true, "/assistants": true, "/threads": true, "/skills": true,
	"/audio/voices": true, "/audio/voice_consents": true, "/chatkit/sessions": true, "/chatkit/threads": true,
}

// managing are the trees that manage an upstream's account.
var managing = []string{"/organization", "/organizations", "/fine_tuning/checkpoints"}

// sharedObjects is the refusal of a request for what other buyers keep at the
// product's upstreams; its reason is ReasonNone where there is none.
func (c *call) sharedObjects() refusal {
	if c.product.Objects == directory.ObjectsShared {
		return refusal{}
	}
	path := c.route.rest
	if !isPlainPath(path) {
		path = lenient(path)
	}
	if !c.ctx.IsPost() && collections[string(path)] {
		return refusal{reason: ReasonNoRoute, detail: "Lists are not served here: the upstream's account is shared, and this one would name what other callers keep. Ask for what you made by its id."}
	}
	for _, tree := range managing {
		if bytes.HasPrefix(path, []byte(tree)) && (len(path) == len(tree) || path[len(tree)] == '/') {
			return refusal{reason: ReasonNoRoute, detail: "What manages the upstream's account is not served here: it is shared."}
		}
	}
	return refusal{}
}
