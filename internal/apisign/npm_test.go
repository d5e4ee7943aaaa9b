package apisign

import (
	"net/http"
	"strings"
	"testing"
)

// TestNPMSigner verifies signatures made by the vendor's npm signer
// (@huaweicloud/huaweicloud-sdk-core 3.1.211, AKSKSigner.sign) against requests
// as Node's URL and axios put them on the wire.
func TestNPMSigner(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, target string // on the wire
		headers              http.Header
		body, names          string
		signature            string
	}{
		{"escaped slash, taken as text", "GET", "/v1/a%2Fb", nil, "", "host;x-sdk-date", "51ee5f602b3098b2d880f32c11dfee7275bd7c7fabbd8fc367cd5630d77c75c5"},
		{"Chinese and a blank in the path", "GET", "/%E5%A4%A9%E6%B0%94/a%20b", nil, "", "host;x-sdk-date", "3aa6ab3803edd2bed0d6f7e21078036221c9e2f99cae479a222cd6d44058d2af"},
		{"marks in the path", "GET", "/a:(b)@!$&*+,;=~.-_", nil, "", "host;x-sdk-date", "6b2c1e62ea5ea67d445dba3e6e43193626e60e29448bc85e8f18a0846a919ca8"},
		{"query, blanks as plus (axios)", "GET", "/q?b=2&a=1&a=0&a%2Fb=x&a-b=y&sp=a+b&pl=a%2Bb&zh=%E4%B8%AD%E6%96%87+%F0%9F%98%80&F=x&e=", nil, "", "host;x-sdk-date", "e7709d54a2d3daf81b52f3820fa467bdd184ce6d17ee63efb2e313085ba8ac8e"},
		{"query, blanks as %20", "GET", "/q?b=2&a=1&a=0&a%2Fb=x&a-b=y&sp=a%20b&pl=a%2Bb&zh=%E4%B8%AD%E6%96%87%20%F0%9F%98%80&F=x&e=", nil, "", "host;x-sdk-date", "e7709d54a2d3daf81b52f3820fa467bdd184ce6d17ee63efb2e313085ba8ac8e"},
		{"body", "POST", "/p", http.Header{"Content-Type": {"application/json"}, "X-Stage": {"RELEASE"}}, `{"m":"中"}`, "content-type;host;x-sdk-date;x-stage", "f38388f3181bc461b59aae34055d68fbf6b07291dd579e6a8a5846e785c192dd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.headers.Clone()
			if h == nil {
				h = http.Header{}
			}
			h.Set(HeaderDate, testDate)
			path, query, _ := strings.Cut(tt.target, "?")
			r := Request{
				Method: []byte(tt.method), Path: []byte(path), Query: []byte(query), Host: []byte("api.example.com"),
				Headers: HTTPHeaders(h), Body: []byte(tt.body),
			}
			auth := Algorithm + " Access=" + testKey + ", SignedHeaders=" + tt.names + ", Signature=" + tt.signature
			if err := check(t, &r, auth); err != nil {
				t.Error(err)
			}
		})
	}
}
