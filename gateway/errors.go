package gateway

import (
	"errors"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"

	"tollgate/gateway/limit"
)

// Errors an Admitter returns.
var (
	// ErrExhausted says that the packages are used up (PKG-5).
	ErrExhausted = errors.New("gateway: the packages are used up")
	// ErrHeld says that all that is left of the packages is held by calls under
	// way. The caller may try again.
	ErrHeld = errors.New("gateway: what is left of the packages is held by calls under way")
	// ErrUnavailable says that this node cannot decide now: the quota store is
	// away and no lease covers the call. The caller may try again.
	ErrUnavailable = errors.New("gateway: quota cannot be decided now")
)

// Reason is why the gateway itself answers a request. It is the key of the
// error table, the reason label of tollgate_rejections_total and the reason
// field of a usage record.
type Reason uint8

// The reasons, in the order a request can meet them.
const (
	ReasonNone Reason = iota
	ReasonMalformed
	ReasonHeadersTooLarge
	ReasonURITooLong
	ReasonBodyTooLarge
	ReasonRequestTimeout
	ReasonNoRoute
	ReasonMethod
	ReasonNoCredential
	ReasonBadSignature
	ReasonSignatureExpired
	ReasonUnknownAppKey
	ReasonBadAppCode
	ReasonAppCodeNeedsHTTPS
	ReasonSimpleAuthOff
	ReasonNoAPIKey
	ReasonBadAPIKey
	ReasonNotBound
	ReasonNotSubscribed
	ReasonModelMissing
	ReasonModelUnknown
	ReasonBadRequest
	ReasonAddress
	ReasonCredentialAddress
	ReasonRateRequests
	ReasonRateTokens
	ReasonConcurrency
	ReasonBusy
	ReasonNotPriced
	ReasonKeyInUse
	ReasonKeyReused
	ReasonFrozen
	ReasonExhausted
	ReasonHeld
	ReasonQuotaUnavailable
	ReasonJournal
	ReasonNotReady
	ReasonNoBackend
	ReasonConnect
	ReasonUpstreamBusy
	ReasonUpstreamTimeout
	ReasonUpstream
	ReasonDraining
	ReasonInternal
	numReasons
)

// row is one line of the error table: the answer in both envelopes
// (GWERR-2, gateway-wire sections 0, 3.2 and 4.1).
type row struct {
	reason string // metric label and record field

	status int    // API products
	code   string // digits behind the prefix: "APIGW." or "APIG."
	msg    string

	llmStatus int // LLM products
	llmType   string
	llmCode   string // empty: null
	llmMsg    string // empty: msg

	noRetry    bool // x-should-retry: false for OpenAI SDKs
	retryAfter int  // seconds; 0: no header
	close      bool // the connection cannot be kept: a body may be unread
}

const (
	typeInvalid = "invalid_request_error"
	typeServer  = "server_error"
)

// table maps every cause to both envelopes. It is the only place where the
// gateway's own answers get their status, code and text.
var table = [numReasons]row{
	ReasonMalformed:         {"malformed", 400, "0201", "API request error.", 400, typeInvalid, "bad_request", "The request is not valid HTTP.", false, 0, true},
	ReasonHeadersTooLarge:   {"headers_too_large", 494, "0201", "Request headers too large.", 431, typeInvalid, "headers_too_large", "", false, 0, true},
	ReasonURITooLong:        {"uri_too_long", 414, "0201", "Request URI too large.", 414, typeInvalid, "uri_too_long", "", false, 0, true},
	ReasonBodyTooLarge:      {"body_too_large", 413, "0201", "Request entity too large.", 413, typeInvalid, "request_too_large", "", false, 0, true},
	ReasonRequestTimeout:    {"request_timeout", 408, "0201", "The request did not arrive in time.", 408, typeInvalid, "request_timeout", "", false, 0, true},
	ReasonNoRoute:           {"no_route", 404, "0101", "The API does not exist or has not been published in the environment.", 404, typeInvalid, "unknown_url", "", false, 0, false},
	ReasonMethod:            {"method", 404, "0101", "The API does not exist.", 405, typeInvalid, "method_not_supported", "The method is not supported here.", false, 0, false},
	ReasonNoCredential:      {"no_credential", 401, "0303", "Incorrect app authentication information: credentials are missing; sign the request with an AppKey and AppSecret, or send X-Apig-AppCode.", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonBadSignature:      {"bad_signature", 401, "0303", "Incorrect app authentication information: verify signature fail", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonSignatureExpired:  {"signature_expired", 401, "0303", "Incorrect app authentication information: signature expired", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonUnknownAppKey:     {"unknown_app_key", 401, "0303", "Incorrect app authentication information: app not found", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonBadAppCode:        {"bad_app_code", 401, "0303", "Incorrect app authentication information: app code not found", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonAppCodeNeedsHTTPS: {"app_code_needs_https", 401, "0303", "Incorrect app authentication information: an AppCode is accepted over https only", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonSimpleAuthOff:     {"simple_auth_off", 401, "0303", "Incorrect app authentication information: simple authentication is not enabled for this API; sign the request instead", 401, typeInvalid, "invalid_api_key", "", false, 0, false},
	ReasonNoAPIKey:          {"no_api_key", 401, "0303", "Incorrect app authentication information: an API key is missing.", 401, typeInvalid, "invalid_api_key", "You didn't provide an API key. Send it in an Authorization header using Bearer auth (Authorization: Bearer YOUR_KEY).", false, 0, false},
	ReasonBadAPIKey:         {"bad_api_key", 401, "0303", "Incorrect app authentication information: API key not found.", 401, typeInvalid, "invalid_api_key", "Incorrect API key provided. Check it, or create a new one in the console under API key management.", false, 0, false},
	ReasonNotBound:          {"not_bound", 403, "0304", "The app is not authorized to access the API: bind the application to it first.", 403, typeInvalid, "not_authorized", "", false, 0, false},
	ReasonNotSubscribed:     {"not_subscribed", 403, "0304", "The app is not authorized to access the API: there is no active subscription.", 403, typeInvalid, "not_subscribed", "This key has no active subscription for the service it addresses. Buy a package of it first.", false, 0, false},
	ReasonModelMissing:      {"model_missing", 400, "0602", "Bad request: the model is missing.", 400, typeInvalid, "model_required", "You must provide a model parameter, or address the service at /v1/infers/{id}/v1.", false, 0, false},
	ReasonModelUnknown:      {"model_unknown", 404, "0101", "The API does not exist.", 404, typeInvalid, "model_not_found", "The model does not exist or you do not have access to it.", false, 0, false},
	ReasonBadRequest:        {"bad_request", 400, "0602", "Bad request.", 400, typeInvalid, "invalid_request", "", false, 0, false},
	ReasonAddress:           {"address", 403, "0402", "The IP address is not authorized to access the API.", 403, typeInvalid, "ip_not_allowed", "", false, 0, false},
	ReasonCredentialAddress: {"credential_address", 403, "0405", "The app is not accessed from a trusted IP address.", 403, typeInvalid, "ip_not_allowed", "This key is not accepted from this IP address.", false, 0, false},
	ReasonRateRequests:      {"rate_requests", 429, "0308", "The throttling threshold has been reached.", 429, "requests", "rate_limit_exceeded", "", false, 1, false},
	ReasonRateTokens:        {"rate_tokens", 429, "0308", "The throttling threshold has been reached.", 429, "tokens", "rate_limit_exceeded", "", false, 1, false},
	ReasonConcurrency:       {"concurrency", 429, "0308", "The throttling threshold has been reached.", 429, "requests", "rate_limit_exceeded", "", false, 1, false},
	ReasonBusy:              {"busy", 429, "0308", "The throttling threshold has been reached: this node is busy, and you have more than your share of it.", 429, "requests", "rate_limit_exceeded", "This node is busy, and this credential has more than its share of it under way. Please try again.", false, 1, false},
	ReasonNotPriced:         {"not_priced", 403, "0304", "The package has no price for this route.", 403, typeInvalid, "not_priced", "The package of this service has no price for this route: buy one that counts calls, or ask the seller to set a billing item for it.", true, 0, false},
	ReasonFrozen:            {"frozen", 405, "0502", "The app has been frozen.", 403, "account_frozen", "account_frozen", "The subscription is frozen: top up the account, then try again.", true, 0, false},
	ReasonExhausted:         {"exhausted", 405, "0501", "The app quota has been used up.", 429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan and billing details.", true, 0, false},
	ReasonHeld:              {"held", 429, "0308", "All that is left of the package is held by calls under way; try again.", 429, "tokens", "rate_limit_exceeded", "", false, 1, false},
	ReasonQuotaUnavailable:  {"quota_unavailable", 503, "0606", "The quota cannot be checked at the moment; try again.", 503, typeServer, "quota_unavailable", "", false, 1, false},
	ReasonJournal:           {"journal", 503, "0606", "The call cannot be recorded at the moment; try again.", 503, typeServer, "not_recordable", "", false, 1, false},
	ReasonNotReady:          {"not_ready", 503, "0606", "The API configurations are not loaded yet; try again.", 503, typeServer, "not_ready", "", false, 1, false},
	ReasonNoBackend:         {"no_backend", 502, "0610", "No backend available.", 502, typeServer, "no_backend", "", false, 0, false},
	ReasonConnect:           {"connect", 502, "0202", "Backend unavailable.", 502, typeServer, "upstream_unavailable", "", false, 0, false},
	ReasonUpstreamBusy:      {"upstream_busy", 503, "0606", "The backend has as many calls under way as it may; try again.", 503, typeServer, "upstream_busy", "", false, 1, false},
	ReasonUpstreamTimeout:   {"upstream_timeout", 504, "0203", "Backend timeout.", 504, typeServer, "upstream_timeout", "", false, 0, false},
	ReasonUpstream:          {"upstream", 502, "0202", "Backend unavailable: its answer broke off.", 502, typeServer, "upstream_error", "", false, 0, false},
	ReasonDraining:          {"draining", 503, "0606", "This node is shutting down; try again.", 503, typeServer, "shutting_down", "", false, 1, true},
	ReasonInternal:          {"internal", 500, "0601", "Internal server error.", 500, typeServer, "internal", "", false, 0, true},
	ReasonKeyInUse:          {"idempotency_running", 409, "0602", "Bad request: the call with this Idempotency-Key is still under way.", 409, typeInvalid, "idempotency_key_in_use", "The request with this Idempotency-Key is still under way. Try again when it has ended.", false, 1, false},
	ReasonKeyReused:         {"idempotency_reused", 422, "0602", "Bad request: this Idempotency-Key was used for another body.", 422, typeInvalid, "idempotency_key_reused", "This Idempotency-Key was used for a request with another body. Use a new key for a new request.", true, 0, false},
}

// String returns the reason's label.
func (r Reason) String() string {
	if r < numReasons {
		return table[r].reason
	}
	return "unknown"
}

// refusal is an answer the gateway makes itself.
type refusal struct {
	reason Reason
	detail string // replaces the row's message behind its first clause; may be empty
	param  string // the offending parameter in the OpenAI envelope

	limited *limit.Refusal // the limit that was reached
}

// writeRefusal writes the answer for r into ctx in the envelope of the route:
// OpenAI's for LLM routes, the API gateway's otherwise.
func (g *Gateway) writeRefusal(ctx *fasthttp.RequestCtx, r refusal, llm bool, requestID []byte) int {
	w := &table[r.reason]
	resp := &ctx.Response
	resp.ResetBody()
	resp.Header.Reset()
	resp.Header.SetContentType("application/json")
	resp.Header.SetBytesV("X-Request-Id", requestID)
	status := w.status
	if llm {
		status = w.llmStatus
	}
	resp.SetStatusCode(status)
	if status == fasthttp.StatusUnauthorized {
		// RFC 9110 section 15.5.2 asks for a challenge on every 401.
		if llm {
			resp.Header.Set("WWW-Authenticate", "Bearer")
		} else {
			resp.Header.Set("WWW-Authenticate", "SDK-HMAC-SHA256")
		}
	}
	if r.reason == ReasonMethod && llm {
		resp.Header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS") // RFC 9110 section 15.5.6
	}
	if w.noRetry && llm {
		resp.Header.Set("X-Should-Retry", "false")
	}
	if r.limited != nil {
		setRetry(&resp.Header, r.limited, llm)
	} else if w.retryAfter > 0 {
		resp.Header.SetBytesV("Retry-After", fasthttp.AppendUint(nil, w.retryAfter))
	}
	if w.close {
		resp.SetConnectionClose()
	}
	msg := w.msg
	if llm && w.llmMsg != "" {
		msg = w.llmMsg
	}
	if r.detail != "" {
		msg = r.detail
	}
	resp.SetBodyRaw(appendEnvelope(nil, llm, g.cfg.ErrorPrefix, w, msg, r.param, requestID))
	return status
}

// appendEnvelope appends the body of a refusal:
//
//	{"error_msg":"…","error_code":"APIGW.0303","request_id":"32 hex"}
//	{"error":{"message":"…","type":"…","param":null,"code":"…"},"error_code":"APIGW.0303","request_id":"32 hex"}
func appendEnvelope(dst []byte, llm bool, prefix string, w *row, msg, param string, requestID []byte) []byte {
	if llm {
		dst = append(dst, `{"error":{"message":`...)
		dst = gjson.AppendJSONString(dst, msg)
		dst = append(dst, `,"type":"`...)
		dst = append(dst, w.llmType...)
		dst = append(dst, `","param":`...)
		if param == "" {
			dst = append(dst, "null"...)
		} else {
			dst = gjson.AppendJSONString(dst, param)
		}
		dst = append(dst, `,"code":`...)
		if w.llmCode == "" {
			dst = append(dst, "null"...)
		} else {
			dst = append(append(append(dst, '"'), w.llmCode...), '"')
		}
		dst = append(dst, `},"error_code":"`...)
	} else {
		dst = append(dst, `{"error_msg":`...)
		dst = gjson.AppendJSONString(dst, msg)
		dst = append(dst, `,"error_code":"`...)
	}
	dst = append(dst, prefix...)
	dst = append(dst, w.code...)
	dst = append(dst, `","request_id":"`...)
	dst = append(dst, requestID...)
	return append(dst, `"}`...)
}
