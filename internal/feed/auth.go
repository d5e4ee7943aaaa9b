package feed

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The paths of the feed on the admin port.
const (
	DirectoryPath = "/feed/v1/directory"
	UsagePath     = "/feed/v1/usage"
)

// VersionHeader carries the version of the snapshot in an answer of
// DirectoryPath.
const VersionHeader = "X-Tollgate-Directory-Version"

// MaxPoll is the longest time the admin role keeps a directory request waiting.
const MaxPoll = 25 * time.Second

// Skew is how far the clocks of a gateway and the admin role may differ.
const Skew = 5 * time.Minute

const scheme = "TGFEED1"

// ErrProof says that a feed request does not prove the feed secret.
var ErrProof = errors.New("feed: the request does not prove the feed secret: set the same TOLLGATE_FEED_SECRET for the admin role and its gateways")

// ErrSkew says that a proof is right but too old or from the future.
var ErrSkew = errors.New("feed: the clocks of the gateway and the admin role differ by more than 5 minutes: synchronise them")

// ErrNoSecret says that the feed secret is not set.
var ErrNoSecret = errors.New("feed: no feed secret is set: set TOLLGATE_FEED_SECRET, the same for the admin role and its gateways")

func mac(method, uri, ts string, body []byte, secret string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "tollgate feed proof", 32)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(scheme + "\n" + method + "\n" + uri + "\n" + ts + "\n" + hex.EncodeToString(sum[:])))
	return m.Sum(nil), nil
}

// Sign adds the proof of the secret to a request with the given body.
func Sign(r *http.Request, body []byte, secret string, now time.Time) error {
	if secret == "" {
		return ErrNoSecret
	}
	ts := strconv.FormatInt(now.Unix(), 10)
	sum, err := mac(r.Method, r.URL.RequestURI(), ts, body, secret)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", scheme+" "+ts+"."+hex.EncodeToString(sum))
	return nil
}

// Verify checks the proof of a received request with the given body, in a time
// that does not depend on how far it is wrong.
func Verify(r *http.Request, body []byte, secret string, now time.Time) error {
	if secret == "" {
		return ErrNoSecret
	}
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), scheme+" ")
	if !ok {
		return ErrProof
	}
	ts, sum, ok := strings.Cut(text, ".")
	if !ok {
		return ErrProof
	}
	got, err := hex.DecodeString(sum)
	if err != nil {
		return ErrProof
	}
	want, err := mac(r.Method, r.URL.RequestURI(), ts, body, secret)
	if err != nil {
		return err
	}
	if !hmac.Equal(got, want) {
		return ErrProof
	}
	// The time is looked at last: only somebody who has the secret learns that
	// the clocks differ.
	sec, err := strconv.ParseInt(ts, 10, 64)
	if err != nil {
		return ErrProof
	}
	if d := now.Sub(time.Unix(sec, 0)); d > Skew || d < -Skew {
		return ErrSkew
	}
	return nil
}
