package apisign

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// naiveSign signs a canonical request with nothing but the standard library.
func naiveSign(canonical, date, secret string) string {
	sum := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "SDK-HMAC-SHA256\n%s\n%x", date, sum)
	return hex.EncodeToString(mac.Sum(nil))
}

var naiveForm = regexp.MustCompile(`SDK-HMAC-SHA256\s+Access=([^,]+),\s?SignedHeaders=([^,]+),\s?Signature=(\w+)`)

// naiveVerify is the vendor's sample verifier in spirit: a regular expression,
// maps, Sprintf. The benchmark's alternative, and the fuzzer's second opinion.
func naiveVerify(method, path, query, host string, h http.Header, body []byte, secret string) bool {
	m := naiveForm.FindStringSubmatch(h.Get(HeaderAuthorization))
	if m == nil {
		return false
	}
	lower := make(map[string][]string)
	for k, v := range h {
		lower[strings.ToLower(k)] = v
	}
	lower["host"] = []string{host}
	var lines []string
	for name := range strings.SplitSeq(m[2], ";") {
		values := slices.Sorted(slices.Values(lower[name]))
		if len(values) == 0 {
			return false
		}
		for _, v := range values {
			lines = append(lines, name+":"+strings.TrimSpace(v))
		}
	}
	canonical := fmt.Sprintf("%s\n%s\n%s\n%s\n\n%s\n%x",
		method, naivePath(path), naiveQuery(query), strings.Join(lines, "\n"), m[2], sha256.Sum256(body))
	want := naiveSign(canonical, h.Get(HeaderDate), secret)
	return hmac.Equal([]byte(want), []byte(m[3]))
}
