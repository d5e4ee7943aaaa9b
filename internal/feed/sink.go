package feed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"tollgate/internal/usage"
)

// ErrBatch says that the body of a usage request is damaged.
var ErrBatch = errors.New("feed: the batch of usage records is damaged")

// maxBatch bounds the bytes that one request carries; a larger batch goes in
// several.
const maxBatch = 4 << 20

// AppendBatch appends records to dst as the body of UsagePath: each is a
// uvarint length and usage.AppendRecord.
func AppendBatch(dst []byte, records []usage.Record) []byte {
	var one []byte
	for i := range records {
		dst, one = appendOne(dst, one, &records[i])
	}
	return dst
}

// appendOne appends one record to dst; one is room to write it in.
func appendOne(dst, one []byte, r *usage.Record) (grown, room []byte) {
	one = usage.AppendRecord(one[:0], r)
	dst = binary.AppendUvarint(dst, uint64(len(one)))
	return append(dst, one...), one
}

// DecodeBatch is the inverse of AppendBatch. Anything else is ErrBatch, and
// none of it is returned.
func DecodeBatch(body []byte) ([]usage.Record, error) {
	var out []usage.Record
	for len(body) > 0 {
		n, used := binary.Uvarint(body)
		if used <= 0 || n > uint64(len(body)-used) {
			return nil, fmt.Errorf("%w: record %d is cut off", ErrBatch, len(out))
		}
		body = body[used:]
		var r usage.Record
		if err := usage.DecodeRecord(body[:n], &r); err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrBatch, len(out), err)
		}
		out = append(out, r)
		body = body[n:]
	}
	return out, nil
}

// UsageSink sends a gateway's records to the admin role, which keeps them. It
// is safe for concurrent use.
type UsageSink struct{ cfg Config }

// NewUsageSink returns a UsageSink. It does not call the admin role yet.
func NewUsageSink(cfg Config) (*UsageSink, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &UsageSink{cfg: cfg}, nil
}

// Insert returns nil once every record is kept. After an error some may be:
// the caller sends all of them again, which is harmless (METER-12).
func (s *UsageSink) Insert(ctx context.Context, records []usage.Record) error {
	var body, one []byte
	for len(records) > 0 {
		n := 0
		for body = body[:0]; n < len(records) && len(body) < maxBatch; n++ {
			body, one = appendOne(body, one, &records[n])
		}
		if err := s.send(ctx, body); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// InsertEncoded is Insert for records in the form of AppendBatch.
func (s *UsageSink) InsertEncoded(ctx context.Context, body []byte) error {
	for len(body) > 0 {
		n := len(body)
		if n > maxBatch {
			var err error
			if n, err = wholeRecords(body, maxBatch); err != nil {
				return err
			}
		}
		if err := s.send(ctx, body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// wholeRecords returns the length of the records at the beginning of body that
// make most bytes, or a little more.
func wholeRecords(body []byte, most int) (n int, err error) {
	for n < most && n < len(body) {
		size, used := binary.Uvarint(body[n:])
		if used <= 0 || size > uint64(len(body)-n-used) {
			return 0, ErrBatch
		}
		n += used + int(size)
	}
	return n, nil
}

func (s *UsageSink) send(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.AdminURL+UsagePath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if err := Sign(req, body, s.cfg.Secret, s.cfg.Now()); err != nil {
		return err
	}
	res, err := s.cfg.Client.Do(req)
	if err != nil {
		return fmt.Errorf("feed: send usage records to the admin role: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return refusal(res)
	}
	return nil
}
