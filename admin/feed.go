package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"tollgate/internal/feed"
)

// registerFeed adds the routes of gateways in other processes. They are no part
// of the API's document: internal/feed is both their description and client.
func (s *Server) registerFeed() {
	s.mux.HandleFunc("GET "+feed.DirectoryPath, s.feedDirectory)
	s.mux.HandleFunc("POST "+feed.UsagePath, s.feedUsage)
	s.mux.HandleFunc("POST "+feed.StatusPath, s.feedStatus)
}

// feedDirectory answers with the newest snapshot as soon as it is not the one
// the gateway has, or 204 after feed.MaxPoll.
func (s *Server) feedDirectory(w http.ResponseWriter, r *http.Request) {
	if err := feed.Verify(r, nil, s.cfg.FeedSecret, s.now()); err != nil {
		s.writeProblem(w, s.problem(r.Context(), err))
		return
	}
	since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
	if err != nil {
		s.writeProblem(w, s.problem(r.Context(), &InvalidError{[]Fault{{"query.since", "must be the version of the snapshot you have, or 0"}}}))
		return
	}
	// A long poll outlives the server's timeouts; a writer that cannot change
	// them has none.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Now().Add(feed.MaxPoll + 2*time.Minute))
	ctx, cancel := context.WithTimeout(r.Context(), feed.MaxPoll)
	defer context.AfterFunc(s.closing, cancel)()
	err = s.source.wait(ctx, since)
	waited := ctx.Err() != nil
	cancel()
	switch {
	case err != nil && waited: // nothing changed in time, the gateway left, or this process stops
		w.WriteHeader(http.StatusNoContent)
		return
	case err != nil:
		s.writeProblem(w, s.problem(r.Context(), err))
		return
	}
	snap, sealed, err := s.source.newest(r.Context(), since, true)
	if err != nil {
		s.writeProblem(w, s.problem(r.Context(), err))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(sealed)))
	w.Header().Set(feed.VersionHeader, strconv.FormatInt(snap.Version, 10))
	_, _ = w.Write(sealed)
}

// feedUsage keeps a batch of records. 204 means that all of them are kept.
func (s *Server) feedUsage(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxUsageBody))
	if err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			status = http.StatusRequestEntityTooLarge
		}
		s.writeProblem(w, statusProblem(r.Context(), status, "the batch could not be read; send a smaller one"))
		return
	}
	if err := feed.Verify(r, body, s.cfg.FeedSecret, s.now()); err != nil {
		s.writeProblem(w, s.problem(r.Context(), err))
		return
	}
	if s.deps.UsageSink == nil {
		s.writeProblem(w, s.problem(r.Context(), ErrUnavailable))
		return
	}
	records, err := feed.DecodeBatch(body)
	if err == nil {
		// The records are kept even if the gateway stops waiting: it would only
		// send them again.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute)
		defer cancel()
		err = s.deps.UsageSink.Insert(ctx, records)
	}
	if err != nil {
		s.writeProblem(w, s.problem(r.Context(), err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
