package apisign

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"
)

// vector is a row of gateway-wire section 1.8, produced by the vendor's signers.
type vector struct {
	id, method, target string
	headers            http.Header
	host, body         string
	key, secret, date  string
	names              string
	canonicalURI       string
	canonicalQuery     string
	requestHash        string
	signature          string
}

const (
	testKey    = "testAppKey0123456789abcdef"
	testSecret = "testAppSecret-9876543210"
	testDate   = "20260102T030405Z"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func vectors() []vector {
	json := http.Header{"Content-Type": {"application/json"}, "X-Stage": {"RELEASE"}}
	plain := http.Header{"Content-Type": {"text/plain"}, "X-Sdk-Content-Sha256": {"UNSIGNED-PAYLOAD"}}
	list := []vector{
		{
			id: "V1", method: "GET", target: "/v1/hello", names: "host;x-sdk-date", canonicalURI: "/v1/hello/",
			requestHash: "dcac478cb16f6efa2c6c010d572641ace68bb12db7d1d4abebaa341d86d6c435",
			signature:   "3ba8cf0fe831ff8396f25296cc047d9f275908f5bffc628e2b365493c17c0431",
		},
		{
			id: "V2", method: "GET", names: "host;x-sdk-date", canonicalURI: "/v1/q/",
			target:         "/v1/q?b=2&a=1&a=0&F=x&empty=&sp=a%20b&zh=%E4%B8%AD%E6%96%87&sl=a%2Fb%2Bc",
			canonicalQuery: "F=x&a=0&a=1&b=2&empty=&sl=a%2Fb%2Bc&sp=a%20b&zh=%E4%B8%AD%E6%96%87",
			requestHash:    "b012938c2c94fad1d4486eb6cc898e72c97407ad51c2c63f1aa1d14197b08227",
			signature:      "1ac900c05b3cec466f2cb0160b8824c7b7dd3a6287d0500aa92e77cd4bc76710",
		},
		{
			id: "V3", method: "POST", target: "/v1/chat/completions", headers: json, names: "content-type;host;x-sdk-date;x-stage",
			body: `{"model":"m","messages":[]}`, canonicalURI: "/v1/chat/completions/",
			requestHash: "b2c0236d11fd1517abfde48a9cd4361c630b527ec125c30128a0dce1086f7a4f",
			signature:   "ed68e246a56d5d4ed9fd34334ff5df28813d0ae6bd0e0caa83c81c67868b2372",
		},
		{
			id: "V3b", method: "POST", target: "/v1/chat/completions", headers: json, names: "host;x-sdk-date;x-stage",
			body: `{"model":"m","messages":[]}`, canonicalURI: "/v1/chat/completions/",
			requestHash: "99008811f2654f0723716868e5ef4261067618df08babdf546ad80b25af3e28e",
			signature:   "e2f31883acd1fd4f3f317da0bf9d25b1f64216f558d9d65bdc9820897509ddc6",
		},
		{
			id: "V4", method: "POST", target: "/upload", headers: plain, names: "content-type;host;x-sdk-content-sha256;x-sdk-date",
			body: "hello", canonicalURI: "/upload/",
			requestHash: "48606b71d00df8b94709f080639f3b5005d7ded0496c84a734ca54f75170a98e",
			signature:   "eed15b4990ae60edc89dad8e696aebf334407cd03bd384e52a4ff7da5298d2de",
		},
		{
			id: "V6", method: "PUT", target: "/", names: "host;x-sdk-date", canonicalURI: "/",
			requestHash: "c06e91e70e3f5adb72dbcb95d8fb7577798a23c7d6ff6d7c49d0060c4464d997",
			signature:   "dc7a6d44c40160d30b474bebee887676a4a33ed72f82e62e7d7cde49f76d64e1",
		},
		{
			id: "V7", method: "GET", target: "/v1/hello", names: "x-sdk-date", canonicalURI: "/v1/hello/",
			requestHash: "59d4c0b61d650d4bc10faac1c7fffe3be44260c5ad0a2107b6262f610d6b4319",
			signature:   "4e5d3081e5ec674a1d0a4f19ae33db604033c9a93b9212a8c562a7b664b21eb1",
		},
		{
			id: "DOC", method: "GET", names: "content-type;host;x-sdk-date", host: "service.region.example.com",
			target:         "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs?limit=2&marker=13551d6b-755d-4757-b956-536f674975c0",
			headers:        http.Header{"Content-Type": {"application/json"}},
			canonicalURI:   "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs/",
			canonicalQuery: "limit=2&marker=13551d6b-755d-4757-b956-536f674975c0",
			key:            "QTWAOYTTINDUT2QVKYUC", secret: "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc", date: "20191115T033655Z",
			requestHash: "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a",
			signature:   "7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe",
		},
	}
	for i := range list {
		v := &list[i]
		if v.key == "" {
			v.key, v.secret, v.date, v.host = testKey, testSecret, testDate, "api.example.com"
		}
	}
	return list
}

// request returns the vector as a request and the Authorization its client sent.
func (v vector) request() (Request, string) {
	h := v.headers.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set(HeaderDate, v.date)
	path, query, _ := strings.Cut(v.target, "?")
	r := Request{
		Method: []byte(v.method), Path: []byte(path), Query: []byte(query),
		Host: []byte(v.host), Headers: HTTPHeaders(h), Body: []byte(v.body),
	}
	return r, Algorithm + " Access=" + v.key + ", SignedHeaders=" + v.names + ", Signature=" + v.signature
}

func (v vector) now(t testing.TB) time.Time {
	now, err := time.Parse(DateLayout, v.date)
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func TestVectorsVerify(t *testing.T) {
	t.Parallel()
	for _, vec := range vectors() {
		t.Run(vec.id, func(t *testing.T) {
			r, auth := vec.request()
			var p Parsed
			if err := p.Parse([]byte(auth)); err != nil {
				t.Fatal(err)
			}
			if string(p.Access) != vec.key {
				t.Errorf("Access = %s, want %s", p.Access, vec.key)
			}
			v := Acquire()
			defer Release(v)
			if err := v.Verify(&p, &r, []byte(vec.secret), vec.now(t), 0); err != nil {
				t.Fatalf("Verify: %v\n%s", err, v.AppendCanonical(nil))
			}
			// The steps between, so that a failure says where it lies.
			lines := strings.Split(string(v.request), "\n")
			if lines[1] != vec.canonicalURI || lines[2] != vec.canonicalQuery {
				t.Errorf("canonical URI %q, query %q; want %q, %q", lines[1], lines[2], vec.canonicalURI, vec.canonicalQuery)
			}
			sum := sha256.Sum256(v.request)
			if got := hex.EncodeToString(sum[:]); got != vec.requestHash {
				t.Errorf("hash of the canonical request = %s, want %s", got, vec.requestHash)
			}
		})
	}
}

func TestVectorsSign(t *testing.T) {
	t.Parallel()
	for _, vec := range vectors() {
		t.Run(vec.id, func(t *testing.T) {
			r, want := vec.request()
			if !strings.Contains(vec.names, "host") {
				r.Host = nil
			}
			var names []string
			for n := range strings.SplitSeq(vec.names, ";") {
				if n != "host" {
					names = append(names, n)
				}
			}
			got, err := AppendAuthorization(nil, &r, vec.key, []byte(vec.secret), names)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}
