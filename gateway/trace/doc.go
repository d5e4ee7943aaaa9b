// Package trace sends a call's spans to an OpenTelemetry receiver: one of the
// call as the client sees it and one of the upstream's part in it, with the
// attributes of the GenAI conventions. W3C trace context comes in with a call
// and goes on to the upstream. No prompt, completion or credential is ever an
// attribute.
package trace
