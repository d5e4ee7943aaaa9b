package directory

import (
	"crypto/hmac"
	"crypto/sha256"
)

// Hash returns HMAC-SHA256(pepper, secret): what is kept of an API key or an
// AppCode. Both are long random texts, so a fast keyed hash is enough (KEY-6).
func Hash(pepper []byte, secret string) []byte {
	m := hmac.New(sha256.New, pepper)
	m.Write([]byte(secret))
	return m.Sum(nil)
}
