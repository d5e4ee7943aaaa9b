package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"tollgate/internal/directory"
)

// StatusPath takes a gateway's report on its upstreams, a directory.NodeStatus
// as JSON. 204 says that it was taken.
const StatusPath = "/feed/v1/status"

// Report sends a gateway's status to the admin role. A report that is lost is
// made up for by the next.
func (s *UsageSink) Report(ctx context.Context, status directory.NodeStatus) error {
	body, err := json.Marshal(status)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.AdminURL+StatusPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := Sign(req, body, s.cfg.Secret, s.cfg.Now()); err != nil {
		return err
	}
	res, err := s.cfg.Client.Do(req)
	if err != nil {
		return fmt.Errorf("feed: report to the admin role: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return refusal(res)
	}
	return nil
}
