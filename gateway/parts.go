package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"tollgate/gateway/multipart"
)

// fieldModel is the field of a multipart body that names the model.
const fieldModel = "model"

// spool is a multipart body that was read as far as was needed to find its
// model, which may stand behind a file of any size. What passes a limit lies in
// a temporary file that has no name any more.
type spool struct {
	head  []byte
	file  *os.File
	size  int64 // of both
	ended bool  // the body was read to its end

	scan  *multipart.Scanner
	rest  io.Reader // what was not read yet
	field multipart.Field
}

// partsFault is an error of a multipart body that shows while it passes.
type partsFault struct{ err error }

func (f *partsFault) Error() string { return f.err.Error() }
func (f *partsFault) Unwrap() error { return f.err }

// refusal is the answer to the fault.
func (f *partsFault) refusal() refusal {
	r := refusal{reason: ReasonBadRequest, detail: f.err.Error()}
	var field *multipart.Fault
	if errors.As(f.err, &field) {
		r.param = field.Field
	}
	return r
}

func isMultipart(contentType []byte) bool {
	const t = "multipart/"
	return len(contentType) >= len(t) && equalFold(contentType[:len(t)], t)
}

// bodyLimit is how long the request's body may be: that of a route which takes
// files may be longer.
func (c *call) bodyLimit() int64 {
	if c.llm && c.ctx.IsPost() {
		switch f, form := familyOf(c.route.rest); {
		case f == familyFiles || f == familyUploads, form == formParts && isMultipart(c.ctx.Request.Header.ContentType()):
			return max(c.g.cfg.MaxUpload, c.g.cfg.MaxBody)
		}
	}
	return c.g.cfg.MaxBody
}

// takeParts finds the model in a multipart body, wherever it stands, and has
// the body sent on byte for byte, but for a model the upstream knows by another
// name. Memory is bounded: see Config.SpoolMemory.
func (c *call) takeParts() refusal {
	h := &c.ctx.Request.Header
	if coding := h.Peek("Content-Encoding"); len(coding) > 0 && !equalFold(coding, "identity") {
		return refusal{reason: ReasonBadRequest, detail: "send a multipart body without Content-Encoding: its files are not unpacked"}
	}
	limit := c.bodyLimit()
	if int64(h.ContentLength()) > limit {
		return refusal{reason: ReasonBodyTooLarge}
	}
	boundary, err := multipart.Boundary(string(h.ContentType()))
	if err != nil {
		return refusal{reason: ReasonBadRequest, detail: err.Error()}
	}
	if !c.ctx.Request.IsBodyStream() {
		return refusal{reason: ReasonBadRequest, detail: multipart.ErrForm.Error()}
	}
	c.whole = c.wholeBody()
	c.spool = &spool{scan: multipart.New(boundary, fieldModel), rest: &c.whole}
	if ref := c.fillSpool(limit); ref.reason != ReasonNone {
		return ref
	}
	if c.pay.model == "" {
		if ref := c.productWithoutModel(); ref.reason != ReasonNone {
			return ref
		}
	} else if ref := c.resolveModel(); ref.reason != ReasonNone {
		return ref
	}
	c.editParts(nil)
	return refusal{}
}

// fillSpool reads the body until the model has passed, or to its end.
func (c *call) fillSpool(limit int64) refusal {
	s := c.spool
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for !s.ended {
		n, err := s.rest.Read(*buf)
		if s.size += int64(n); s.size > limit {
			return refusal{reason: ReasonBodyTooLarge}
		}
		if ferr := s.add((*buf)[:n], c.g.cfg); ferr != nil {
			c.g.log.Error("spool a request body", "request_id", c.idString(), "error", ferr)
			return refusal{reason: ReasonInternal}
		}
		switch {
		case err == io.EOF:
			s.ended = true
		case err != nil:
			return c.brokenBody(err)
		}
		if ferr := s.scan.Feed((*buf)[:n]); ferr == nil && s.ended {
			ferr = s.scan.End()
			if ferr != nil {
				return (&partsFault{ferr}).refusal()
			}
		} else if ferr != nil {
			return (&partsFault{ferr}).refusal()
		}
		if f, ok := s.scan.Field(fieldModel); ok {
			if f.Value == "" {
				return refusal{reason: ReasonBadRequest, detail: "model must be a non-empty string", param: fieldModel}
			}
			s.field, c.pay.model = f, f.Value
			break
		}
	}
	return refusal{}
}

// add keeps bytes of the body.
func (s *spool) add(p []byte, cfg Config) error {
	if s.file == nil && len(s.head)+len(p) <= cfg.SpoolMemory {
		s.head = append(s.head, p...)
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp(cfg.SpoolDir, "tollgate-upload-*")
		if err != nil {
			return fmt.Errorf("make a temporary file: %w", err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("unlink the temporary file: %w", err)
		}
	}
	if _, err := s.file.Write(p); err != nil {
		return fmt.Errorf("write the temporary file: %w", err)
	}
	return nil
}

// closeSpool gives up what the body left behind.
func (c *call) closeSpool() {
	if c.spool != nil && c.spool.file != nil {
		_ = c.spool.file.Close() // nothing of it is to be kept
	}
}

// section returns the bytes from..to of what was spooled.
func (s *spool) section(from, to int64) io.Reader {
	inHead := func(n int64) int64 { return min(n, int64(len(s.head))) }
	head := bytes.NewReader(s.head[inHead(from):inHead(to)])
	if s.file == nil {
		return head
	}
	at := int64(len(s.head))
	from, to = max(from, at)-at, max(to, at)-at
	return io.MultiReader(head, io.NewSectionReader(s.file, from, to-from))
}

// editParts makes the body for an upstream of the product, nil for any, out of
// the client's. The rest of it
// is looked through on its way: a second model in there would be the
// upstream's to choose from.
func (c *call) editParts(t *target) {
	s := c.spool
	parts := make([]io.Reader, 0, 4)
	delta := int64(0)
	if name := c.upstreamModel(t); c.pay.model != "" && name != c.pay.model {
		parts = append(parts, s.section(0, s.field.Begin), bytes.NewReader([]byte(name)), s.section(s.field.End, s.size))
		delta = int64(len(name)) - (s.field.End - s.field.Begin)
	} else {
		parts = append(parts, s.section(0, s.size))
	}
	if !s.ended {
		parts = append(parts, &watchedParts{r: s.rest, scan: s.scan})
	}
	c.upload = upload{r: wholeBody{r: io.MultiReader(parts...)}, left: max(c.bodyLimit()+max(delta, 0), 1)}
	c.uploadDelta = delta
}

// uploadLength is the length of the body sent upstream, below 0 when it is not
// known.
func (c *call) uploadLength() int64 {
	n := int64(c.ctx.Request.Header.ContentLength())
	if n < 0 {
		return n
	}
	return n + c.uploadDelta
}

// watchedParts is the rest of a multipart body.
type watchedParts struct {
	r    io.Reader
	scan *multipart.Scanner
}

// Read implements io.Reader.
func (w *watchedParts) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	ferr := w.scan.Feed(p[:n])
	if ferr == nil && err == io.EOF {
		ferr = w.scan.End()
	}
	if ferr != nil {
		return 0, &partsFault{ferr}
	}
	return n, err
}
