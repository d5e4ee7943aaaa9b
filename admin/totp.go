package admin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what RFC 6238 and every authenticator app use
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"time"
)

// One-time codes after RFC 6238, as every authenticator app makes them: SHA-1,
// six digits, steps of 30 s.
const totpStep = 30

var b32 = base32.StdEncoding.WithPadding(base32.NoPadding)

// newTOTPSecret returns 160 random bits in base32.
func newTOTPSecret() string {
	var b [20]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("admin: no randomness: " + err.Error())
	}
	return b32.EncodeToString(b[:])
}

// totpCode is the code of one step.
func totpCode(key []byte, step int64) string {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(step))
	h := hmac.New(sha1.New, key)
	h.Write(at[:])
	sum := h.Sum(nil)
	n := binary.BigEndian.Uint32(sum[sum[len(sum)-1]&15:]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1_000_000)
}

// matchTOTP returns the step of code, one step of clock error allowed either
// way. Steps up to last were used and are not taken again.
func matchTOTP(secret, code string, now time.Time, last int64) (step int64, ok bool) {
	key, err := b32.DecodeString(secret)
	if err != nil || len(code) != 6 {
		return 0, false
	}
	at := now.Unix() / totpStep
	for s := at - 1; s <= at+1; s++ {
		if subtle.ConstantTimeCompare([]byte(totpCode(key, s)), []byte(code)) == 1 && s > last {
			return s, true
		}
	}
	return 0, false
}

// totpURI is what an authenticator app reads.
func totpURI(name, secret string) string {
	return "otpauth://totp/" + url.PathEscape("Tollgate:"+name) + "?issuer=Tollgate&secret=" + secret
}
