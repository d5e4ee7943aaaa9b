package metering

import (
	"encoding/base64"
	"encoding/binary"

	"tollgate/internal/ids"
)

// A page cursor is base64url of: version 1, admission in Unix ms as 8 bytes
// big endian, request id.
const cursorSize = 1 + 8 + 16

// MakeCursor returns the cursor behind a record of List.
func MakeCursor(ms int64, id ids.Request) string {
	b := make([]byte, 1, cursorSize)
	b[0] = 1
	b = binary.BigEndian.AppendUint64(b, uint64(ms))
	return base64.RawURLEncoding.EncodeToString(append(b, id[:]...))
}

// ParseCursor is the inverse of MakeCursor; anything else is ErrCursor.
func ParseCursor(s string) (ms int64, id ids.Request, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != cursorSize || b[0] != 1 {
		return 0, id, ErrCursor
	}
	copy(id[:], b[9:])
	return int64(binary.BigEndian.Uint64(b[1:])), id, nil
}
