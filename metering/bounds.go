package metering

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// Batch is what is sent at once. Its bounds in the journal are on disk before
// it is sent first, so every later try, also after a restart, sends the same
// records under the same id.
type Batch struct {
	// ID is a hash of the records' binary forms, 32 hexadecimal digits, and
	// serves as deduplication token: equal ids are equal batches.
	ID      string
	Records []usage.Record
	// Doubtful says that some or all of the records may be stored already, from
	// an earlier try of this batch or from another batch.
	Doubtful bool
	// Made is when the bounds were written down.
	Made time.Time
}

// BatchID returns the id of a batch of records.
func BatchID(recs []usage.Record) string {
	h := sha256.New()
	var buf []byte
	for i := range recs {
		buf = usage.AppendRecord(buf[:0], &recs[i])
		hashRecord(h, buf)
	}
	return batchID(h)
}

func hashRecord(h hash.Hash, body []byte) {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(body)))
	h.Write(n[:])
	h.Write(body)
}

func batchID(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)[:16]) }

// bounds are what is written down of a batch.
type bounds struct {
	End     journal.Position `json:"-"`
	EndText string           `json:"end"` // behind its last record; it begins where the cursor stands
	ID      string           `json:"id"`
	Records int              `json:"records"`
	Made    time.Time        `json:"made"`
}

// readBounds returns the bounds in a file, or nil when there are none.
func readBounds(path string) (*bounds, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	b := new(bounds)
	if err == nil {
		err = json.Unmarshal(text, b)
	}
	if err == nil {
		b.End, err = journal.ParsePosition(b.EndText)
	}
	if err != nil {
		return nil, fmt.Errorf("metering: bounds of the last batch in %s: %w: remove the file; the records are then compared with the store one by one", path, err)
	}
	return b, nil
}

// write puts the bounds on disk, whole or not at all.
func (b *bounds) write(path string) error {
	if path == "" {
		return nil
	}
	b.EndText = b.End.String()
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("metering: bounds of a batch: %w", err)
	}
	return nil
}

func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
