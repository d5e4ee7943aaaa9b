package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"tollgate/internal/sqldb"
)

// maxKey bounds an idempotency key.
const maxKey = 255

// validateKey returns the fault of an idempotency key, if any.
func validateKey(key string) error {
	switch {
	case key == "":
		return errors.New("idempotency key is empty: send one that is unique to this request, and the same one when repeating it")
	case len(key) > maxKey:
		return fmt.Errorf("idempotency key has %d bytes: the limit is %d", len(key), maxKey)
	}
	return nil
}

// request is what one idempotency key stands for.
type request struct {
	scope string // operation and account the key belongs to
	key   string
	input any // decisive fields of the input, hashed as JSON
}

// claim takes the key for the thing that is about to be made under id. If the
// key was used before with the same input, it returns the id of what was made
// then; with other input it returns ErrIdempotencyConflict. The claim is part
// of tx: a request that failed leaves its key free.
func claim(ctx context.Context, tx *sqldb.Tx, r request, id string, nowMs int64) (earlier string, err error) {
	hash, err := inputHash(r.input)
	if err != nil {
		return "", err
	}
	// A concurrent request with the same key makes this wait for its end.
	res, err := tx.Exec(ctx, `INSERT INTO billing_request (scope, key, input_hash, result, created_ms)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (scope, key) DO NOTHING`, r.scope, r.key, hash, id, nowMs)
	if err != nil {
		return "", fmt.Errorf("claim the idempotency key: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return "", err
	}
	var was string
	err = tx.QueryRow(ctx, `SELECT input_hash, result FROM billing_request WHERE scope = $1 AND key = $2`, r.scope, r.key).Scan(&was, &earlier)
	if err != nil {
		return "", fmt.Errorf("read the idempotency key: %w", err)
	}
	if was != hash {
		return "", ErrIdempotencyConflict
	}
	return earlier, nil
}

func inputHash(input any) (string, error) {
	b, err := json.Marshal(input)
	if err != nil {
		return "", fmt.Errorf("hash the input: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
