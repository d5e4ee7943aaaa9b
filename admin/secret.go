package admin

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"strings"
)

// randomText returns 256 random bits as 43 letters and digits: a text that a
// double click selects whole.
func randomText() string {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("admin: no randomness: " + err.Error())
	}
	text := new(big.Int).SetBytes(b[:]).Text(62)
	return strings.Repeat("0", 43-len(text)) + text
}

// randomHex returns n random bytes as 2n lower-case hexadecimal digits.
func randomHex(n int) string {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic("admin: no randomness: " + err.Error())
	}
	return hex.EncodeToString(b)
}

// mask shows the first and last four characters of the random part of a
// secret: enough to tell two apart, too little to guess from.
func mask(prefix, random string) string {
	return prefix + random[:4] + "…" + random[len(random)-4:]
}

// Masked is what stands for a secret in every answer that does not reveal it.
const Masked = "***"
