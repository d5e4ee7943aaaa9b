package trace

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// Config says where spans go.
type Config struct {
	Endpoint string  // OTLP over HTTP, whole URL
	Sample   float64 // part of the calls without a sampled parent
	Node     string
	Version  string
	Log      *slog.Logger
}

// Tracer makes the spans of calls. It is safe for concurrent use.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   oteltrace.Tracer
	context  propagation.TraceContext
}

// New returns a tracer that exports in the background. A receiver that is away
// costs no call anything: spans wait in a bounded queue and are dropped.
func New(ctx context.Context, cfg Config) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(cfg.Endpoint), otlptracehttp.WithTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	res := resource.NewSchemaless(
		attribute.String("service.name", "tollgate"),
		attribute.String("service.instance.id", cfg.Node),
		attribute.String("service.version", cfg.Version),
	)
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Second)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Sample))),
		sdktrace.WithResource(res),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("tollgate/gateway")}, nil
}

// Close sends what waits, within ctx.
func (t *Tracer) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Span is the trace of one call.
type Span struct {
	tracer   *Tracer
	ctx      context.Context
	server   oteltrace.Span
	upstream oteltrace.Span
}

// Start begins the span of a call whose client sent the given trace context. It
// returns nil for a call that is not sampled.
func (t *Tracer) Start(traceparent, tracestate string, at time.Time) *Span {
	ctx := context.Background()
	if traceparent != "" {
		ctx = t.context.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate})
	}
	ctx, span := t.tracer.Start(ctx, "call", oteltrace.WithTimestamp(at), oteltrace.WithSpanKind(oteltrace.SpanKindServer))
	if !span.IsRecording() {
		return nil
	}
	return &Span{tracer: t, ctx: ctx, server: span}
}

// Send begins the upstream's part and returns the trace context to send there.
// A call that is sent again ends the part before.
func (s *Span) Send(at time.Time) (traceparent, tracestate string) {
	if s.upstream != nil {
		s.upstream.SetStatus(codes.Error, "not answered")
		s.upstream.End(oteltrace.WithTimestamp(at))
	}
	ctx, span := s.tracer.tracer.Start(s.ctx, "upstream", oteltrace.WithTimestamp(at), oteltrace.WithSpanKind(oteltrace.SpanKindClient))
	s.upstream = span
	carrier := propagation.MapCarrier{}
	s.tracer.context.Inject(ctx, carrier)
	return carrier["traceparent"], carrier["tracestate"]
}

// Call is what a span tells of a call when it has ended.
type Call struct {
	Method, Path, RequestID                  string
	Status                                   int
	Reason                                   string // of a refusal
	Product, Subscription, Account, AuthKind string
	Operation, Model                         string // GenAI; empty for API products
	InputTokens, OutputTokens                int64  // below 0: not known
	Streamed, Incomplete, ClientGone         bool
	Upstream                                 string // host
	FirstByte, End                           time.Time
}

// End ends the call's spans.
func (s *Span) End(c *Call) {
	name := c.Method
	attrs := []attribute.KeyValue{
		attribute.String("http.request.method", c.Method),
		attribute.String("url.path", c.Path),
		attribute.Int("http.response.status_code", c.Status),
		attribute.String("tollgate.request_id", c.RequestID),
	}
	text := func(key, v string) {
		if v != "" {
			attrs = append(attrs, attribute.String(key, v))
		}
	}
	text("tollgate.product", c.Product)
	text("tollgate.subscription", c.Subscription)
	text("tollgate.account", c.Account)
	text("tollgate.auth", c.AuthKind)
	if c.Operation != "" {
		name = c.Operation
		if c.Model != "" {
			name += " " + c.Model
		}
		text("gen_ai.operation.name", c.Operation)
		text("gen_ai.request.model", c.Model)
		attrs = append(attrs, attribute.String("gen_ai.provider.name", "tollgate"), attribute.Bool("gen_ai.request.stream", c.Streamed))
		if c.InputTokens >= 0 {
			attrs = append(attrs, attribute.Int64("gen_ai.usage.input_tokens", c.InputTokens))
		}
		if c.OutputTokens >= 0 {
			attrs = append(attrs, attribute.Int64("gen_ai.usage.output_tokens", c.OutputTokens))
		}
	}
	text("error.type", c.Reason)
	if c.Incomplete {
		attrs = append(attrs, attribute.Bool("tollgate.incomplete", true))
	}
	if c.ClientGone {
		attrs = append(attrs, attribute.Bool("tollgate.client_gone", true))
	}
	s.server.SetName(name)
	s.server.SetAttributes(attrs...)
	if c.Status >= 500 {
		s.server.SetStatus(codes.Error, c.Reason)
	}
	if !c.FirstByte.IsZero() {
		s.server.AddEvent("first byte", oteltrace.WithTimestamp(c.FirstByte))
	}
	if s.upstream != nil {
		s.upstream.SetAttributes(attribute.String("server.address", c.Upstream))
		if c.Status >= 500 || c.Incomplete {
			s.upstream.SetStatus(codes.Error, c.Reason)
		}
		s.upstream.End(oteltrace.WithTimestamp(c.End))
	}
	s.server.End(oteltrace.WithTimestamp(c.End))
}
